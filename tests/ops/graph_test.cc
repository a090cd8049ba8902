#include "ops/graph.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <string>
#include <variant>
#include <vector>

#include "model/decoder.h"
#include "model/encoder.h"
#include "model/tensor_source.h"
#include "support/compare.h"
#include "support/errors.h"
#include "support/plain_run.h"
#include "support/random.h"
#include "support/random_vae.h"

namespace calotype::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

Conv2d conv(int64_t in, int64_t out, int64_t kernel = 3) { return {{}, {}, in, out, kernel}; }

GroupNorm norm(int groups) { return {{}, {}, groups, 1e-6}; }

TEST(Graph, knows_the_extent_of_every_result) {
  Graph graph({5, 7, 3});
  const Activation same = graph.conv("same", graph.input(), conv(3, 8));
  const Activation up = graph.conv("up", same, conv(8, 4), {.sampling = Sampling::kUpsample});
  const Activation down = graph.conv("down", up, conv(4, 6), {.sampling = Sampling::kDownsample});
  const GroupNorm n = norm(2);
  const Activation attention = graph.attention("attention", down, n, {});
  EXPECT_EQ(graph.extent(same), (Extent{5, 7, 8}));
  EXPECT_EQ(graph.extent(up), (Extent{10, 14, 4}));
  EXPECT_EQ(graph.extent(down), (Extent{5, 7, 6}));
  EXPECT_EQ(graph.extent(attention), (Extent{5, 7, 6}));
  EXPECT_EQ(graph.activations(), 5);
}

TEST(Graph, halves_odd_sizes_as_pytorch_does) {
  Graph graph({9, 4, 1});
  const Activation y =
      graph.conv("down", graph.input(), conv(1, 1), {.sampling = Sampling::kDownsample});
  EXPECT_EQ(graph.extent(y), (Extent{4, 2, 1}));
}

TEST(Graph, remembers_whose_statistics_are_wanted) {
  Graph graph({4, 4, 3});
  const GroupNorm n = norm(4);
  const Activation x = graph.conv("a", graph.input(), conv(3, 8));
  const Activation y = graph.conv("b", x, conv(8, 8), {.norm = &n});
  EXPECT_EQ(graph.stats_groups(x), 4);
  EXPECT_EQ(graph.stats_groups(y), 0);
}

TEST(Graph, refuses_what_a_network_cannot_mean) {
  Graph graph({4, 4, 3});
  const Activation x = graph.conv("a", graph.input(), conv(3, 8));
  const GroupNorm four = norm(4), two = norm(2);
  graph.conv("b", x, conv(8, 8), {.norm = &four});
  EXPECT_THAT(sentence_of([&] { graph.conv("c", x, conv(6, 8)); }, ErrorCode::kInternal),
              AllOf(HasSubstr("c"), HasSubstr("6"), HasSubstr("8")));
  sentence_of([&] { graph.conv("d", x, conv(8, 8), {.norm = &two}); }, ErrorCode::kInternal);
  sentence_of([&] { graph.attention("e", graph.input(), four, {}); }, ErrorCode::kInternal);
}

TEST(Graph, refuses_sizes_that_overflow) {
  const int64_t huge = int64_t{1} << 31;
  sentence_of([&] { Graph({huge, huge, 8}); }, ErrorCode::kInvalidArgument);
  Graph graph({huge, huge / 16, 1});
  sentence_of(
      [&] { graph.conv("up", graph.input(), conv(1, 64), {.sampling = Sampling::kUpsample}); },
      ErrorCode::kInvalidArgument);
}

// By hand: 2 * pixels of y * outputs * inputs of one output.
TEST(Flop, counts_multiply_adds_twice) {
  Graph graph({4, 6, 3});
  const Activation a = graph.conv("a", graph.input(), conv(3, 8));
  const Activation b = graph.conv("b", a, conv(8, 5, 1));
  const Activation c = graph.conv("c", b, conv(5, 2), {.sampling = Sampling::kUpsample});
  const Activation d = graph.conv("d", c, conv(2, 4), {.sampling = Sampling::kDownsample});
  const Conv2d shortcut = conv(5, 4, 1);
  graph.conv("e", d, conv(4, 4), {.residual = &b, .shortcut = &shortcut});
  const GroupNorm n = norm(1);
  graph.attention("f", d, n, {});
  const std::vector<double> expected = {
      2.0 * 24 * 8 * 27, 2.0 * 24 * 5 * 8,        2.0 * 96 * 2 * 45,
      2.0 * 24 * 4 * 18, 2.0 * 24 * 4 * (36 + 5), 4 * (2.0 * 24 * 4 * 4) + 2 * (2.0 * 24 * 24 * 4)};
  ASSERT_EQ(graph.nodes().size(), expected.size());
  for (size_t i = 0; i < expected.size(); i++) {
    EXPECT_EQ(flop_of(graph, graph.nodes()[i]), expected[i]) << name_of(graph.nodes()[i]);
  }
}

struct RandomNetwork {
  explicit RandomNetwork(uint64_t seed) : random(seed), config(random_config(random, 3, 16)) {
    model = random_model(config, seed, DType::kF32);
    ModelTensors tensors(model);
    decoder = Decoder(tensors, config).graph(3, 5);
    encoder = Encoder(tensors, config).graph(8, 12);
  }
  Random random;
  AutoencoderKLConfig config;
  Model model;
  Graph decoder{{1, 1, 1}}, encoder{{1, 1, 1}};
};

TEST(Lower, makes_nodes_of_shortcuts_and_changes_no_result) {
  for (uint64_t seed = 1; seed <= 12; seed++) {
    RandomNetwork network(seed);
    SCOPED_TRACE("seed " + std::to_string(seed) + ": " + describe(network.config));
    for (const Graph& graph : {network.decoder, network.encoder}) {
      const Graph lowered = lower(graph);
      double flop = 0, lowered_flop = 0;
      size_t shortcuts = 0;
      for (const Node& node : graph.nodes()) {
        flop += flop_of(graph, node);
        const auto* c = std::get_if<ConvNode>(&node);
        shortcuts += c != nullptr && c->shortcut ? 1 : 0;
      }
      for (const Node& node : lowered.nodes()) {
        lowered_flop += flop_of(lowered, node);
        const auto* c = std::get_if<ConvNode>(&node);
        EXPECT_FALSE(c != nullptr && c->shortcut) << name_of(node);
      }
      EXPECT_EQ(lowered.nodes().size(), graph.nodes().size() + shortcuts);
      EXPECT_DOUBLE_EQ(lowered_flop, flop);

      const Extent e = graph.extent(graph.input());
      const Tensor input = network.random.normal_tensor({1, e.h, e.w, e.c});
      const std::vector<double> x(input.values().begin(), input.values().end());
      const std::vector<double> truth = run_reference(graph, 1, x),
                                result = run_reference(lowered, 1, x);
      EXPECT_LE(difference(std::span<const double>(result), truth).relative_rms, 1e-13);
    }
  }
}

TEST(Lower, names_shortcuts_as_diffusers_does) {
  AutoencoderKLConfig config = small_config();
  Model model = model_of_zeros(config);
  ModelTensors tensors(model);
  const Graph lowered = lower(Encoder(tensors, config).graph(8, 8));
  EXPECT_TRUE(std::ranges::any_of(lowered.nodes(), [](const Node& node) {
    return name_of(node) == "encoder.down_blocks.1.resnets.0.conv_shortcut";
  }));
}

}  // namespace
}  // namespace calotype::test
