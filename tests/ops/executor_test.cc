// Planned execution, within any memory, against the same operations run one after the other with
// every activation whole.
#include "ops/executor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "cpu/cpu_ops.h"
#include "model/decoder.h"
#include "model/encoder.h"
#include "model/tensor_source.h"
#include "ops/planner.h"
#include "reference/reference_ops.h"
#include "support/errors.h"
#include "support/plain_run.h"
#include "support/random.h"
#include "support/random_vae.h"

namespace calotype::test {
namespace {

using testing::HasSubstr;

// A network of random shape, lowered, with an input for it.
struct Network {
  Network(uint64_t seed, int64_t height, int64_t width)
      : random(seed), config(random_config(random, 3, 24)) {
    model = random_model(config, seed, DType::kF32);
    ModelTensors tensors(model);
    const int64_t h = random.integer(1, height), w = random.integer(1, width);
    const int64_t f = int64_t{1} << (config.block_out_channels.size() - 1);
    graph = lower(random.integer(0, 1) == 0 ? Decoder(tensors, config).graph(h, w)
                                            : Encoder(tensors, config).graph(h * f, w * f));
    batch = random.integer(1, 2);
    const Extent e = graph.extent(graph.input());
    input = random.normal_tensor({batch, e.h, e.w, e.c});
  }

  Random random;
  AutoencoderKLConfig config;
  Model model;
  Graph graph{{1, 1, 1}};
  int64_t batch = 1;
  Tensor input;
};

template <class T>
std::vector<T> run_planned(const Network& network, Ops& ops, const ExecutionPlan& plan) {
  const Extent e = network.graph.extent(network.graph.output());
  const std::vector<T> input(network.input.values().begin(), network.input.values().end());
  std::vector<T> output(static_cast<size_t>(network.batch * e.h * e.w * e.c));
  const TemporaryFolder scratch;
  ExecuteOptions options;
  options.scratch_folder = scratch.path();
  execute(network.graph, ops, plan, network.batch, input.data(), output.data(), options);
  return output;
}

// Every plan from the freest to the smallest gives the bytes of the plain run.
template <class T>
void expect_same_bytes(uint64_t seed, Ops& ops, int64_t height, int64_t width) {
  Network network(seed, height, width);
  SCOPED_TRACE("seed " + std::to_string(seed) + ": " + describe(network.config) + " batch " +
               std::to_string(network.batch) + " input " + shape_string(network.input.shape()));
  const std::vector<T> input(network.input.values().begin(), network.input.values().end());
  const std::vector<T> truth = run_plainly<T>(network.graph, ops, network.batch, input);
  PlanOptions options;
  const int64_t most = plan_execution(network.graph, ops, network.batch, options).peak_bytes;
  for (const bool may_spill : {true, false}) {
    options.may_spill = may_spill;
    const int64_t least = smallest_plan(network.graph, ops, network.batch, options).peak_bytes;
    ASSERT_LE(least, most);
    for (const int64_t memory :
         {int64_t{0}, least, least + (most - least) / 3, network.random.integer(least, most)}) {
      options.memory = memory;
      const ExecutionPlan plan = plan_execution(network.graph, ops, network.batch, options);
      EXPECT_LE(plan.peak_bytes, memory > 0 ? memory : most);
      EXPECT_TRUE(may_spill || plan.spilled_bytes == 0);
      const std::vector<T> result = run_planned<T>(network, ops, plan);
      EXPECT_EQ(std::memcmp(result.data(), truth.data(), truth.size() * sizeof(T)), 0)
          << "in " << memory << " of " << most << " bytes, spilled " << plan.spilled_bytes;
    }
  }
}

TEST(Executor, gives_the_bytes_of_the_plain_run_in_any_memory_on_the_reference) {
  const uint64_t first = test_seed(1);
  const auto ops = make_reference_ops(1);
  for (uint64_t seed = first; seed < first + 15; seed++)
    expect_same_bytes<double>(seed, *ops, 24, 9);
}

TEST(Executor, gives_the_bytes_of_the_plain_run_in_any_memory_on_the_cpu) {
  const uint64_t first = test_seed(100);
  const auto ops = make_cpu_ops(Precision::kF32, 2);
  for (uint64_t seed = first; seed < first + 25; seed++)
    expect_same_bytes<float>(seed, *ops, 60, 20);
}

TEST(Executor, names_the_smallest_memory_where_none_fits) {
  const Network network(3, 24, 9);
  const auto ops = make_reference_ops(1);
  PlanOptions options;
  const int64_t least = smallest_plan(network.graph, *ops, network.batch, options).peak_bytes;
  options.memory = least - 1;
  EXPECT_THAT(sentence_of([&] { plan_execution(network.graph, *ops, network.batch, options); },
                          ErrorCode::kOutOfMemory),
              HasSubstr(std::to_string(least)));
}

}  // namespace
}  // namespace calotype::test
