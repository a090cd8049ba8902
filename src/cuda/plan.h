// Which kernel computes each operation of a graph, and where everything lies in device memory.
// Needs no GPU.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "calotype/autoencoder_kl.h"
#include "cuda/kernels/tiling.h"
#include "ops/graph.h"

namespace calotype::cuda {

// What plans depend on.
struct Target {
  Precision precision = Precision::kBF16;  // kF32, kBF16, kF16, or kFP8 where `hopper` is
  bool hopper = false;                     // has the kernels of sm_90a
  int processors = 1;
  int shared_bytes = 99 << 10;  // that a block can have: sm_86's, the least since sm_80
  // Bytes a second, of a GPU of which nothing is known: between host and device, each way; of its
  // memory.
  double bus_rate = 25e9, memory_rate = 0.5e12;

  int64_t element_bytes() const { return precision == Precision::kF32 ? 4 : 2; }
  // FLOP a second that convolutions reach.
  double rate() const;
};

enum class Path { kSimt, kMma, kHopper };

// Bytes [offset, offset + bytes) of the arena; offset -1: nowhere.
struct Place {
  int64_t offset = -1, bytes = 0;
};

// Where an activation lies: in device memory; in pinned memory of the host (the graph's ends: in
// the caller's), from and to which strips of it go; nowhere, so that every operation that reads it
// computes it once more, strip by strip.
enum class Home { kDevice, kHost, kNowhere };

struct ActivationPlan {
  Home home = Home::kDevice;
  Place place;  // of the arena, or of pinned memory; none for the graph's ends where they are
                // callers'
  int64_t stride = 0;  // elements from pixel to pixel; see Pictures
  bool planar = false;
  // Statistics, where an operation norms it: see Partials.
  Place moments;
  int slots = 0, units = 0, width = 1;
  bool fused = false;  // the convolution leaves them; else a pass of its own
};

struct ConvPlan {
  Path path = Path::kSimt;
  Mode mode = Mode::kSame;
  int row_tile = 0;
  int weight_rows = 0;  // of one output phase
  bool fp8 = false;     // as pack_fp8 leaves the weights
  int64_t packed_bytes = 0;
};

// The attention of `pictures` pictures, `rows` queries of each, at a time.
struct AttentionPlan {
  bool hopper = false;   // the kernels of sm_90a, planar normed and query_rows
  bool bounded = false;  // see BoundedAttention
  int64_t pictures = 1, rows = 0;
  int64_t pitch = 0;  // elements from row to row of p and of transposed
  ConvPlan query, out;
  Place normed, transposed, query_rows, p;
  Place scores;                         // float32; not where bounded
  Place sums, bounds, scales, largest;  // bounded only; largest: [batch]
};

// Strips in device memory of an activation that is not there as a whole: two that are used in turn
// where they come or go by the bus, else one twice.
struct StripBuffer {
  Activation a;
  std::array<Place, 2> places;
};

// A convolution by strips of rows: while one is computed, the next is on its way up and the one
// before on its way down.
struct StripPlan {
  int rows = 0;  // of the output, in every strip but the last
  int count = 0;
  int slots = 0;  // of statistics, likewise
  // The operations that are computed for each strip: those whose results lie nowhere, then this
  // one.
  std::vector<size_t> nodes;
  std::vector<Place> affines;  // of each
  std::vector<StripBuffer> buffers;
  std::array<Place, 2> raw;  // the graph's input as it is given, where it comes by strips
  int64_t up_bytes = 0, down_bytes = 0;  // over the bus, in all
  double flop = 0, seconds = 0;          // expected
};

struct NodePlan {
  ConvPlan conv;
  std::optional<StripPlan> strips;
  bool skipped = false;  // only others compute it
  std::optional<AttentionPlan> attention;
};

struct GraphPlan {
  std::vector<ActivationPlan> activations;
  std::vector<NodePlan> nodes;
  int64_t arena_bytes = 0;
  int64_t host_bytes = 0;     // of pinned memory: the activations there
  bool by_strips = false;     // at least the graph's output comes by strips
  int64_t affine_stride = 0;  // of the one GroupNorm in use, in channels
  Place affine;
  int64_t weight_bytes = 0;
};

// Lifetimes to places: at the full resolution no more than two activations are alive, and a
// result lies where its residual did. Throws Error(kUnsupported) for sizes beyond 2^31.
GraphPlan plan_graph(const Graph& graph, int64_t batch, const Target& target);

// One picture with at most `room` bytes of arena: what does not fit is in host memory. None where
// there is no such plan.
std::optional<GraphPlan> plan_strips(const Graph& graph, const Target& target, int64_t room);
// The least `room` that has one.
int64_t least_strip_room(const Graph& graph, const Target& target);

// FLOP that are computed for an operation, one picture.
double flop_executed(const Graph& graph, const Node& node, const NodePlan& plan);
double flop_of_conv(const Graph& graph, const ConvNode& node, Mode mode);

ConvPlan plan_conv(const ConvNode& node, bool is_output, const Target& target);

}  // namespace calotype::cuda
