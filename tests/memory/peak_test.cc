// What the kernel says a process held at most, against what was planned for it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "calotype/autoencoder_kl.h"
#include "calotype/machine.h"
#include "core/cat.h"
#include "support/random.h"

namespace calotype::test {
namespace {

constexpr int64_t kMebibyte = int64_t{1} << 20;

struct Held {
  long long planned = 0, budget = 0, real = 0;
};

// One job in a process of its own; see peak_job.cc.
Held run_job(const std::string& arguments) {
  const std::string command = cat(CALOTYPE_PEAK_JOB, " ", arguments);
  const std::unique_ptr<FILE, int (*)(FILE*)> output(popen(command.c_str(), "r"), pclose);
  Held peak;
  if (output == nullptr ||
      std::fscanf(output.get(), "%lld %lld %lld", &peak.planned, &peak.budget, &peak.real) != 3) {
    ADD_FAILURE() << command << " failed";
  }
  return peak;
}

void expect_as_planned(const std::string& arguments, int threads) {
  SCOPED_TRACE(arguments);
  const Held peak = run_job(arguments);
  std::printf("%s: planned %.1f MiB, held %.1f MiB\n", arguments.c_str(),
              static_cast<double>(peak.planned) / kMebibyte,
              static_cast<double>(peak.real) / kMebibyte);
  EXPECT_LE(peak.planned, peak.budget);
  // 5 %; of small jobs 4 MiB: kProgramBytes is what the whole program has, of which a test uses 2
  // less, and buffers of 2 MiB and more are counted in whole huge pages, which the kernel may lack.
  const long long allowed = std::max<long long>(peak.planned / 20, 4 * kMebibyte);
  EXPECT_LE(peak.real, peak.planned + allowed);
  // A thread without a core may come too late for any work at the peak, and its scratch stays
  // empty.
  if (threads <= default_threads()) {
    EXPECT_GE(peak.real, peak.planned - allowed);
  }
}

struct Draw {
  explicit Draw(uint64_t seed) : random(seed) {}
  Random random;
  std::string job() { return random.pick(std::vector<std::string>{"decode", "encode"}); }
  int threads = random.pick(std::vector<int>{1, 2, 4, 8});
  double share() { return random.pick(std::vector<double>{0, 1, random.uniform()}); }
  std::string arguments(const std::string& model, int64_t side) {
    const int64_t width = 8 * random.integer(2, side / 8), height = 8 * random.integer(2, side / 8);
    return cat(model, " ", job(), " ", width, " ", height, " ", threads, " ", share());
  }
};

// The first process measures the machine, which takes memory of its own, and leaves the result for
// the others.
class Peak : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    for (const int threads : {1, 2, 4, 8}) run_job(cat("embedded decode 16 16 ", threads, " 1"));
  }
};

TEST_F(Peak, of_the_embedded_model_is_as_planned) {
  const uint64_t first = test_seed(100);
  for (uint64_t seed = first; seed < first + 16; seed++) {
    Draw draw(seed);
    expect_as_planned(draw.arguments("embedded", 768), draw.threads);
  }
}

TEST_F(Peak, of_a_mapped_checkpoint_is_as_planned) {
  const TemporaryFolder folder;
  const std::string file = folder.path("flux.safetensors");
  convert_model(random_model(family_config("flux"), 1), file, {});
  const uint64_t first = test_seed(200);
  for (uint64_t seed = first; seed < first + 12; seed++) {
    Draw draw(seed);
    expect_as_planned(draw.arguments(file, 320), draw.threads);
  }
}

TEST_F(Peak, of_weights_in_memory_is_as_planned) {
  const uint64_t first = test_seed(300);
  const std::vector<std::string> families = {"flux", "sd1", "flux2"};
  for (uint64_t seed = first; seed < first + 6; seed++) {
    Draw draw(seed);
    expect_as_planned(draw.arguments("random:" + draw.random.pick(families), 256), draw.threads);
  }
}

}  // namespace
}  // namespace calotype::test
