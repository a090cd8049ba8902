#include "cuda/plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "cuda/arena.h"
#include "cuda/strips.h"
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

// The operations that are computed with operation i.
std::vector<size_t> chain_of(const GraphPlan& plan, size_t i) {
  if (plan.nodes[i].skipped) return {};
  return plan.nodes[i].strips ? plan.nodes[i].strips->nodes : std::vector<size_t>{i};
}

// Places that are in use together, in one of the two memories.
class InUse {
 public:
  explicit InUse(int64_t bytes) : bytes_(bytes) {}
  // `shared`: with what lies at the same offset, whose place it takes.
  void add(const Place& place, bool shared = false) {
    if (place.offset < 0) return;
    EXPECT_LE(place.offset + place.bytes, bytes_);
    for (const Place& other : places_) {
      const bool apart =
          place.offset >= other.offset + other.bytes || other.offset >= place.offset + place.bytes;
      EXPECT_TRUE(apart || (shared && place.offset == other.offset));
    }
    places_.push_back(place);
  }

 private:
  int64_t bytes_;
  std::vector<Place> places_;
};

// What two operations use at the same time must not share bytes.
void expect_no_overlap(const Graph& graph, const GraphPlan& plan) {
  const auto count = static_cast<size_t>(graph.activations());
  std::vector<size_t> last(count, 0), last_norm(count, 0);
  std::vector<int64_t> first(count, -1);
  const auto index = [](Activation a) { return static_cast<size_t>(a.id); };
  for (size_t i = 0; i < graph.nodes().size(); i++) {
    for (const size_t k : chain_of(plan, i)) {
      for (const Activation a : inputs_of(graph.nodes()[k])) last[index(a)] = i;
      last_norm[index(inputs_of(graph.nodes()[k]).front())] = i;
    }
    first[index(output_of(graph.nodes()[i]))] = static_cast<int64_t>(i);
  }
  for (size_t i = 0; i < graph.nodes().size(); i++) {
    SCOPED_TRACE(name_of(graph.nodes()[i]));
    const auto y = index(output_of(graph.nodes()[i]));
    InUse device(plan.arena_bytes), host(plan.host_bytes);
    const auto of = [&](size_t k) -> InUse& {
      return plan.activations[k].home == Home::kHost ? host : device;
    };
    for (size_t k = 0; k < count; k++) {
      if (k == y || first[k] > static_cast<int64_t>(i)) continue;
      if (last[k] >= i) of(k).add(plan.activations[k].place);
      if (last_norm[k] >= i) device.add(plan.activations[k].moments);
    }
    device.add(plan.affine);
    if (plan.nodes[i].attention) {
      const AttentionPlan& a = *plan.nodes[i].attention;
      for (const Place& place : {a.normed, a.transposed, a.query_rows, a.p, a.scores, a.sums,
                                 a.bounds, a.scales, a.largest}) {
        device.add(place);
      }
    }
    if (plan.nodes[i].strips) {
      const StripPlan& strips = *plan.nodes[i].strips;
      for (const Place& place : strips.affines) device.add(place);
      for (const Place& place : strips.raw) device.add(place);
      for (const StripBuffer& buffer : strips.buffers) {
        // What is computed again is there from one operation of the strip to another.
        if (plan.activations[index(buffer.a)].home == Home::kNowhere) continue;
        device.add(buffer.places[0]);
        device.add(buffer.places[1], true);
      }
    }
    device.add(plan.activations[y].moments);
    of(y).add(plan.activations[y].place, true);  // may be a residual's
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

// From the least memory to nearly all that the whole takes: no bound is passed, nothing is in
// another's way, and more memory is never expected to take much longer.
TEST(CudaPlan, strips_fit_any_bound) {
  for (const Target& target : {kHopper, kPortable, kExact}) {
    for (const Graph& graph :
         {decoder(flux(), 64, 48), decoder(flux(), 33, 71), encoder(flux(), 328, 200)}) {
      const int64_t least = least_strip_room(graph, target);
      const GraphPlan whole = plan_graph(graph, 1, target);
      EXPECT_LT(least, whole.arena_bytes / 4);
      EXPECT_FALSE(plan_strips(graph, target, least - 1));
      double before = 1e9;
      for (const int64_t percent : {0, 10, 30, 60, 100}) {
        const int64_t room = least + (whole.arena_bytes - least) * percent / 100;
        SCOPED_TRACE(testing::Message() << room << " of " << whole.arena_bytes);
        const std::optional<GraphPlan> plan = plan_strips(graph, target, room);
        ASSERT_TRUE(plan);
        EXPECT_LE(plan->arena_bytes, room);
        EXPECT_TRUE(plan->by_strips);
        expect_no_overlap(graph, *plan);
        double seconds = 0;
        for (const NodePlan& node : plan->nodes) seconds += node.strips ? node.strips->seconds : 0;
        EXPECT_LT(seconds, 1.3 * before);
        before = seconds;
      }
    }
  }
}

TEST(CudaPlan, attention_stays_on_the_gpu) {
  const Graph graph = decoder(flux(), 64, 64);
  const auto plan = plan_strips(graph, kHopper, least_strip_room(graph, kHopper));
  ASSERT_TRUE(plan);
  for (size_t i = 0; i < graph.nodes().size(); i++) {
    if (!plan->nodes[i].attention) continue;
    for (const Activation a : {inputs_of(graph.nodes()[i]).front(), output_of(graph.nodes()[i])}) {
      EXPECT_EQ(plan->activations[static_cast<size_t>(a.id)].home, Home::kDevice);
    }
  }
}

TEST(CudaStrips, take_the_rows_that_the_convolution_reads) {
  for (const Mode mode : {Mode::kPoint, Mode::kSame, Mode::kUp, Mode::kDown}) {
    const int height = 13, out = mode == Mode::kUp ? 26 : mode == Mode::kDown ? 6 : 13;
    const int step = mode == Mode::kUp ? 2 : 1;
    for (int first = 0; first < out; first += step) {
      for (int last = first + step; last <= out; last += step) {
        const Rows rows = input_rows(mode, {first, last}, height);
        // Of the output's rows: the first and the last that a 3x3 reads, in the picture.
        const int low = mode == Mode::kUp     ? (first - 1) >> 1
                        : mode == Mode::kDown ? 2 * first
                                              : first - (mode == Mode::kSame);
        const int high = mode == Mode::kUp     ? last / 2
                         : mode == Mode::kDown ? 2 * last
                                               : last - (mode == Mode::kPoint);
        EXPECT_EQ(rows.first, std::max(0, low));
        EXPECT_EQ(rows.last, std::min(height - 1, high) + 1);
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
TEST(CudaPlan, fp8_is_in_the_3x3_convolutions_after_a_norm_alone) {
  const Graph graph = decoder(flux(), 64, 64);
  const GraphPlan plan = plan_graph(graph, 1, {Precision::kFP8, true, 132});
  int found = 0;
  for (size_t i = 0; i < graph.nodes().size(); i++) {
    const auto* conv = std::get_if<ConvNode>(&graph.nodes()[i]);
    const bool expected = conv != nullptr && conv->norm && conv->sampling == Sampling::kSame &&
                          conv->conv.kernel == 3 && conv->y.id != graph.output().id;
    EXPECT_EQ(plan.nodes[i].conv.fp8, expected) << name_of(graph.nodes()[i]);
    found += expected;
  }
  EXPECT_EQ(found, 28);  // of 14 resnets
  const GraphPlan wide = plan_graph(graph, 1, kHopper);
  EXPECT_EQ(plan.arena_bytes, wide.arena_bytes);
  EXPECT_LT(plan.weight_bytes, wide.weight_bytes * 7 / 10);
}

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
