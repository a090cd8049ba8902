#include "cuda/plan.h"

#include <gtest/gtest.h>

#include <map>

#include "cuda/arena.h"
#include "model/decoder.h"
#include "model/encoder.h"
#include "support/random.h"

namespace calotype::cuda {
namespace {

constexpr int64_t kMiB = 1 << 20;

AutoencoderKLConfig flux() { return family_config("flux"); }

Graph decoder(const AutoencoderKLConfig& config, int64_t h, int64_t w) {
  TensorDeclarations tensors;
  return Decoder(tensors, config).graph(h, w);
}
Graph encoder(const AutoencoderKLConfig& config, int64_t h, int64_t w) {
  TensorDeclarations tensors;
  return Encoder(tensors, config).graph(h, w);
}

const Target kHopper = {Precision::kBF16, true, 132};
const Target kPortable = {Precision::kBF16, false, 108};
const Target kExact = {Precision::kF32, true, 132};

// Three activations of the full resolution: 256 channels on the way in, 128 beside them.
TEST(CudaPlan, decodes_1024x1024_in_less_than_a_gigabyte) {
  const GraphPlan plan = plan_graph(decoder(flux(), 128, 128), 1, kHopper);
  EXPECT_LE(plan.arena_bytes, (512 + 256 + 2) * kMiB);
  EXPECT_LE(plan.weight_bytes, 104 * kMiB);
  const GraphPlan larger = plan_graph(decoder(flux(), 256, 256), 1, kHopper);
  EXPECT_LE(larger.arena_bytes, 4 * (512 + 256 + 2) * kMiB);
}

TEST(CudaPlan, memory_of_attention_is_what_the_other_operations_leave) {
  const Graph graph = decoder(flux(), 256, 256);
  const GraphPlan plan = plan_graph(graph, 1, kHopper);
  for (size_t i = 0; i < graph.nodes().size(); i++) {
    if (!plan.nodes[i].attention) continue;
    const AttentionPlan& attention = *plan.nodes[i].attention;
    EXPECT_LT(attention.rows, 256 * 256);  // all rows would take 8 GiB
    EXPECT_GE(attention.rows, 8192);
    EXPECT_EQ(attention.rows % 256, 0);
  }
}

// What two operations use at the same time must not share bytes.
void expect_no_overlap(const Graph& graph, const GraphPlan& plan) {
  std::vector<size_t> last(static_cast<size_t>(graph.activations()), 0);
  std::vector<int64_t> first(static_cast<size_t>(graph.activations()), -1);
  for (size_t i = 0; i < graph.nodes().size(); i++) {
    for (const Activation a : inputs_of(graph.nodes()[i])) last[static_cast<size_t>(a.id)] = i;
    first[static_cast<size_t>(output_of(graph.nodes()[i]).id)] = static_cast<int64_t>(i);
  }
  for (size_t i = 0; i < graph.nodes().size(); i++) {
    const int y = output_of(graph.nodes()[i]).id;
    std::map<int64_t, Place> live;  // by offset
    const auto add = [&](const Place& place, bool shared) {
      if (place.offset < 0) return;
      EXPECT_LE(place.offset + place.bytes, plan.arena_bytes);
      for (const auto& [offset, other] : live) {
        const bool apart = place.offset >= other.offset + other.bytes ||
                           other.offset >= place.offset + place.bytes;
        EXPECT_TRUE(apart || (shared && place.offset == offset))
            << "at " << name_of(graph.nodes()[i]);
      }
      live[place.offset] = place;
    };
    for (int a = 0; a < graph.activations(); a++) {
      const auto k = static_cast<size_t>(a);
      if (a == y || first[k] > static_cast<int64_t>(i) || last[k] < i) continue;
      add(plan.activations[k].place, false);
      add(plan.activations[k].moments, false);
    }
    add(plan.affine, false);
    if (plan.nodes[i].attention) {
      const AttentionPlan& a = *plan.nodes[i].attention;
      for (const Place& place : {a.normed, a.transposed, a.query_rows, a.p, a.scores, a.sums,
                                 a.bounds, a.scales, a.largest}) {
        add(place, false);
      }
    }
    add(plan.activations[static_cast<size_t>(y)].moments, false);
    add(plan.activations[static_cast<size_t>(y)].place, true);  // may be a residual's
  }
}

TEST(CudaPlan, nothing_that_lives_at_the_same_time_shares_memory) {
  for (const std::string& family : family_names()) {
    const AutoencoderKLConfig config = family_config(family);
    for (const Target& target : {kHopper, kPortable, kExact}) {
      for (const int64_t batch : {1, 3}) {
        SCOPED_TRACE(family);
        const Graph down = encoder(config, 104, 72), up = decoder(config, 13, 9);
        expect_no_overlap(down, plan_graph(down, batch, target));
        expect_no_overlap(up, plan_graph(up, batch, target));
      }
    }
  }
}

TEST(CudaPlan, takes_the_kernels_that_the_precision_and_the_gpu_have) {
  const Graph graph = decoder(flux(), 8, 8);
  const auto path = [&](const Target& target) {
    return plan_graph(graph, 1, target).nodes[0].conv.path;
  };
  EXPECT_EQ(path(kHopper), Path::kHopper);
  EXPECT_EQ(path({Precision::kF16, true, 132}), Path::kHopper);
  EXPECT_EQ(path(kPortable), Path::kMma);
  EXPECT_EQ(path(kExact), Path::kSimt);
}

// Widths whose groups have an odd number of channels cannot be told from pairs of channels.
TEST(CudaPlan, statistics_of_odd_groups_take_a_pass_of_their_own) {
  const Conv2d conv = {{}, {}, 8, 96, 3};
  for (const int groups : {32, 16}) {
    Graph graph({16, 16, 8});
    const Activation x = graph.conv("first", graph.input(), conv);
    const GroupNorm norm = {{}, {}, groups, 1e-6};
    graph.set_output(graph.conv("last", x, {{}, {}, 96, 3, 3}, {.norm = &norm}));
    const GraphPlan plan = plan_graph(graph, 1, kHopper);
    EXPECT_EQ(plan.activations[static_cast<size_t>(x.id)].fused, groups == 16);
  }
}

TEST(CudaPlan, refuses_what_the_kernels_cannot_count) {
  EXPECT_THROW(plan_graph(decoder(flux(), 6000, 6000), 1, kHopper), Error);
}

TEST(CudaArena, deals_the_memory_of_what_is_gone) {
  Arena arena;
  const int64_t a = arena.take(4096, 0), b = arena.take(2048, 0);
  arena.give(a, 1);
  const int64_t c = arena.take(4096, 2);
  EXPECT_EQ(arena.deal(), 6144);
  EXPECT_EQ(arena.offset(a), arena.offset(c));
  EXPECT_EQ(arena.offset(b), 4096);
}

TEST(CudaArena, deals_the_tail_of_what_shrinks) {
  Arena arena;
  const int64_t a = arena.take(4096, 0);
  arena.shrink(a, 1024, 1);
  const int64_t b = arena.take(3072, 2), c = arena.take(2048, 1);
  EXPECT_EQ(arena.deal(), 6144);
  EXPECT_EQ(arena.offset(b), 1024);
  EXPECT_EQ(arena.offset(c), 4096);
}

TEST(CudaArena, keeps_apart_what_lives_together) {
  test::Random random(test::test_seed(1));
  for (int round = 0; round < 50; round++) {
    struct Item {
      int64_t number, first, last, bytes;
    };
    Arena arena;
    std::vector<Item> items;
    for (int i = 0; i < 30; i++) {
      Item item;
      item.first = random.integer(0, 20);
      item.last = item.first + random.integer(0, 6);
      item.bytes = random.integer(1, 9) * Arena::kAlignment;
      item.number = arena.take(item.bytes, item.first);
      arena.give(item.number, item.last);
      items.push_back(item);
    }
    const int64_t size = arena.deal();
    for (const Item& a : items) {
      EXPECT_LE(arena.offset(a.number) + a.bytes, size);
      for (const Item& b : items) {
        if (a.number == b.number || a.first > b.last || b.first > a.last) continue;
        EXPECT_TRUE(arena.offset(a.number) >= arena.offset(b.number) + b.bytes ||
                    arena.offset(b.number) >= arena.offset(a.number) + a.bytes);
      }
    }
  }
}

// Tiles of 16 rows where shared memory allows them and they are enough to keep the GPU busy.
TEST(Tiling, rows_of_portable_tiles_follow_the_gpu_and_the_picture) {
  constexpr int kSm80 = 163 << 10, kSm86 = 99 << 10;
  EXPECT_EQ(mma_tile_h(Mode::kSame, 1, 1024, 1024, 128, 128, 108, kSm80), 16);
  EXPECT_EQ(mma_tile_h(Mode::kSame, 1, 1024, 1024, 128, 128, 108, kSm86), 8);
  EXPECT_EQ(mma_tile_h(Mode::kSame, 1, 64, 64, 512, 128, 108, kSm80), 8);
  EXPECT_EQ(mma_tile_h(Mode::kSame, 2, 64, 64, 512, 128, 108, kSm80), 16);
  EXPECT_EQ(mma_tile_h(Mode::kSame, 1, 1024, 1024, 32, 32, 108, kSm80), 8);
  EXPECT_EQ(mma_tiles(Mode::kSame, 17, 33, 8), 9);
  EXPECT_EQ(mma_tiles(Mode::kPoint, 17, 33, 16), 3);  // 561 pixels in 36 rows of 16
}

}  // namespace
}  // namespace calotype::cuda
