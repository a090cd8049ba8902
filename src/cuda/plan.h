// Which kernel computes each operation of a graph, and where everything lies in device memory.
// Needs no GPU.
#pragma once

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

  int64_t element_bytes() const { return precision == Precision::kF32 ? 4 : 2; }
};

enum class Path { kSimt, kMma, kHopper };

// Bytes [offset, offset + bytes) of the arena; offset -1: nowhere.
struct Place {
  int64_t offset = -1, bytes = 0;
};

struct ActivationPlan {
  Place place;         // none for the graph's output, which is the caller's
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

struct NodePlan {
  ConvPlan conv;
  std::optional<AttentionPlan> attention;
};

struct GraphPlan {
  std::vector<ActivationPlan> activations;
  std::vector<NodePlan> nodes;
  int64_t arena_bytes = 0;
  int64_t affine_stride = 0;  // of the one GroupNorm in use, in channels
  Place affine;
  int64_t weight_bytes = 0;
};

// Lifetimes to places: at the full resolution no more than two activations are alive, and a
// result lies where its residual did. Throws Error(kUnsupported) for sizes beyond 2^31.
GraphPlan plan_graph(const Graph& graph, int64_t batch, const Target& target);

ConvPlan plan_conv(const ConvNode& node, bool is_output, const Target& target);

}  // namespace calotype::cuda
