// What the planner promises whatever the network: more memory is never slower.
#include "ops/planner.h"

#include <gtest/gtest.h>

#include <string>

#include "cpu/cpu_ops.h"
#include "model/decoder.h"
#include "model/encoder.h"
#include "model/tensor_source.h"
#include "support/random.h"
#include "support/random_vae.h"

namespace calotype::test {
namespace {

void expect_no_slower_with_more(const Graph& graph, const PlanOptions& given) {
  const auto ops = make_cpu_ops(Precision::kF32, 2);
  PlanOptions options = given;
  const ExecutionPlan unbounded = plan_execution(graph, *ops, 1, options);
  const int64_t least = smallest_plan(graph, *ops, 1, options).peak_bytes;
  double before = 0;
  constexpr int kSteps = 10;
  for (int step = 0; step <= kSteps; step++) {
    options.memory = least + (unbounded.peak_bytes - least) * step / kSteps;
    const ExecutionPlan plan = plan_execution(graph, *ops, 1, options);
    EXPECT_LE(plan.peak_bytes, options.memory);
    if (step > 0) {
      EXPECT_LE(plan.seconds, before) << "in " << options.memory << " bytes";
    }
    before = plan.seconds;
  }
  EXPECT_LE(unbounded.seconds, before);
}

TEST(Planner, is_never_slower_with_more_memory) {
  const Model model = model_of_zeros(family_config("flux"));
  ModelTensors tensors(model);
  for (const bool may_spill : {true, false}) {
    PlanOptions options;
    options.may_spill = may_spill;
    options.speed.disk_per_second = 2e9;
    SCOPED_TRACE(testing::Message() << "may spill " << may_spill);
    expect_no_slower_with_more(lower(Decoder(tensors, model.config).graph(128, 128)), options);
    expect_no_slower_with_more(lower(Encoder(tensors, model.config).graph(512, 768)), options);
  }
}

// A shortcut is made with the convolution that reads the same rows, which go meanwhile: their two
// results never stand beside all of them.
TEST(Planner, takes_little_more_than_the_largest_activation) {
  const Model model = model_of_zeros(family_config("flux"));
  ModelTensors tensors(model);
  const Graph graph = lower(Decoder(tensors, model.config).graph(128, 128));
  const auto ops = make_cpu_ops(Precision::kF32, 2);
  constexpr double kLargest = 4.0 * 1024 * 1024 * 256;
  const ExecutionPlan plan = plan_execution(graph, *ops, 1, {});
  EXPECT_LT(static_cast<double>(plan.peak_bytes), 1.2 * kLargest);
  EXPECT_EQ(plan.flop_again, 0);
  EXPECT_EQ(plan.spilled_bytes, 0);
}

TEST(Planner, is_never_slower_with_more_memory_for_any_network) {
  const uint64_t first = test_seed(500);
  for (uint64_t seed = first; seed < first + 6; seed++) {
    Random random(seed);
    const AutoencoderKLConfig config = random_config(random);
    SCOPED_TRACE("seed " + std::to_string(seed) + ": " + describe(config));
    const Model model = model_of_zeros(config);
    ModelTensors tensors(model);
    const int64_t h = random.integer(1, 90), w = random.integer(1, 60);
    expect_no_slower_with_more(lower(Decoder(tensors, config).graph(h, w)), {});
  }
}

}  // namespace
}  // namespace calotype::test
