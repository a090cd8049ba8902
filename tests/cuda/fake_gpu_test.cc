// What the library does with a GPU, on one that is not there: see fake_plugin.cc.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "calotype/autoencoder_kl.h"
#include "calotype/image.h"
#include "support/random.h"

namespace calotype::test {
namespace {

using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

class FakeGpu : public testing::Test {
 protected:
  static void SetUpTestSuite() { setenv("CALOTYPE_CUDA_PLUGIN", CALOTYPE_TEST_PLUGIN, 1); }
  void SetUp() override { is(""); }
  void TearDown() override { is(""); }
  static void is(const char* state) { setenv("CALOTYPE_FAKE_GPU", state, 1); }

  static AutoencoderKLConfig config() {
    AutoencoderKLConfig config;
    config.block_out_channels = {8, 8};
    config.norm_num_groups = 4;
    config.down_block_types = {"DownEncoderBlock2D", "DownEncoderBlock2D"};
    config.up_block_types = {"UpDecoderBlock2D", "UpDecoderBlock2D"};
    config.force_upcast = false;
    return config;
  }
  RunOptions on(Backend backend, Precision precision = Precision::kAuto) {
    RunOptions options;
    options.backend = backend;
    options.precision = precision;
    options.notice = [this](const std::string& sentence) { notices_.push_back(sentence); };
    return options;
  }
  ErrorCode code_of(const RunOptions& options) {
    try {
      vae_.decode(latents_, options);
    } catch (const Error& error) {
      return error.code();
    }
    ADD_FAILURE() << "no error";
    return {};
  }
  bool is_cpus(const Tensor& image) {
    const Tensor expected = vae_.decode(latents_, on(Backend::kCpu));
    return std::equal(image.values().begin(), image.values().end(), expected.data());
  }

  const AutoencoderKL vae_{random_model(config(), 1)};
  const Tensor latents_ = Random(1).normal_tensor({2, 4, 4, 4});
  std::vector<std::string> notices_;
};

TEST_F(FakeGpu, is_taken_where_it_works) {
  const RunOptions options = on(Backend::kAuto);
  EXPECT_EQ(vae_.backend_name(options), "Fake GPU (no kernels, bf16)");
  EXPECT_THAT(vae_.decode(latents_, options).values(), Each(0.5F));
  EXPECT_THAT(vae_.decode_bytes(latents_, options), Each(191));
  EXPECT_THAT(vae_.encode(Tensor({1, 8, 8, 3}), options).mean.values(), Each(0.5F));
  EXPECT_EQ(vae_.plan_decode(2, 8, 8, options).planned_peak_bytes, 2 << 20);
  EXPECT_THAT(notices_, IsEmpty());
}

TEST_F(FakeGpu, leaves_the_job_to_the_cpu_where_it_cannot_be_opened_and_says_why) {
  for (const char* state : {"full", "taken"}) {
    SCOPED_TRACE(state);
    is(state);
    notices_.clear();
    const RunOptions options = on(Backend::kAuto);
    EXPECT_TRUE(is_cpus(vae_.decode(latents_, options)));
    ASSERT_EQ(notices_.size(), 1);
    EXPECT_THAT(notices_[0], HasSubstr("the GPU cannot be used: the fake GPU is "));
    EXPECT_THAT(notices_[0], Not(HasSubstr("\n")));
    EXPECT_EQ(vae_.backend_name(options), "CPU: " + notices_[0]);
    // Not where it was asked for: by name, by number, by what the CPU does not have.
    EXPECT_NE(code_of(on(Backend::kCuda)), ErrorCode());
    EXPECT_NE(code_of(on(Backend::kAuto, Precision::kF16)), ErrorCode());
    RunOptions second = on(Backend::kAuto);
    second.device = 1;
    EXPECT_NE(code_of(second), ErrorCode());
  }
  is("");
  EXPECT_THAT(vae_.decode(latents_, on(Backend::kAuto)).values(), Each(0.5F));  // tried again
}

TEST_F(FakeGpu, leaves_what_does_not_fit_its_memory_to_the_cpu_and_says_so) {
  is("small");
  RunOptions options = on(Backend::kAuto);
  std::vector<LayerReport> layers;
  options.layers = &layers;
  EXPECT_TRUE(is_cpus(vae_.decode(latents_, options)));
  EXPECT_THAT(notices_, ElementsAre("the job takes more memory than the GPU has for it: the fake "
                                    "GPU is small"));
  EXPECT_NE(layers.at(0).name, "half of it");
  const Tensor image = vae_.decode(latents_, on(Backend::kCpu));
  std::vector<uint8_t> bytes(static_cast<size_t>(image.size()));
  to_uint8(image.values(), bytes);
  EXPECT_EQ(vae_.decode_bytes(latents_, options), bytes);
  EXPECT_GT(vae_.plan_encode(1, 8, 8, options).planned_peak_bytes, kProgramBytes);
  EXPECT_EQ(notices_.size(), 3);
  EXPECT_EQ(code_of(on(Backend::kCuda)), ErrorCode::kOutOfMemory);
  EXPECT_EQ(notices_.size(), 3);
}

}  // namespace
}  // namespace calotype::test
