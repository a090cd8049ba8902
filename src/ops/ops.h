// The seam between the network and the machines: what a backend must be able to compute.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ops/graph.h"

namespace calotype {

// Statistics of one group of one picture: mean, and the sum of squared deviations from it. Merged
// in float64 (Chan et al. 1979).
struct GroupStats {
  double count = 0, mean = 0, m2 = 0;

  void merge(const GroupStats& other) {
    if (other.count == 0) return;
    const double total = count + other.count, delta = other.mean - mean;
    const double share = other.count / total;
    mean += delta * share;
    m2 += other.m2 + delta * delta * count * share;
    count = total;
  }
};

// Rows [first_row, first_row + rows) of every picture of a batch, NHWC, elements of the backend's
// type. Row r of picture b starts at data + b * picture_stride + (r - first_row) * w * c (strides
// in elements). A whole activation has first_row 0 and rows == h.
struct Rows {
  void* data = nullptr;
  int64_t first_row = 0, rows = 0;
  int64_t picture_stride = 0;
  Extent extent;  // of the whole activation
};

struct ConstRows {
  const void* data = nullptr;
  int64_t first_row = 0, rows = 0;
  int64_t picture_stride = 0;
  Extent extent;

  ConstRows() = default;
  ConstRows(const Rows& r)  // NOLINT: a view of the same rows
      : data(r.data),
        first_row(r.first_row),
        rows(r.rows),
        picture_stride(r.picture_stride),
        extent(r.extent) {}
};

// Statistics of an activation as its producer leaves them: one entry a band of rows, a picture and
// a group, in that order, so that merging the bands in order gives the same whatever order they
// were computed in.
struct BandStats {
  int64_t band_rows = 0;  // rows of a band; the first may have others, the last fewer
  int64_t bands = 0, batch = 0, groups = 0;
  std::vector<GroupStats> values;  // [bands][batch][groups]

  GroupStats* at(int64_t band, int64_t picture) {
    return values.data() + static_cast<size_t>((band * batch + picture) * groups);
  }
  // [batch][groups], bands merged in order.
  std::vector<GroupStats> merged() const;
};

struct ConvCall {
  const ConvNode* node = nullptr;
  int64_t batch = 1;
  ConstRows x;                          // at least Ops::input_rows of y's rows
  std::span<const GroupStats> x_stats;  // [batch][groups] where node->norm
  ConstRows residual;              // where node->residual: at least y's rows; may be y's memory
  Rows y;                          // whole bands: starts where a band starts, ends where one ends
  BandStats* y_stats = nullptr;    // the bands of y's rows are written, where somebody norms y
  const void* prepared = nullptr;  // what Ops::prepare filled, where prepared_bytes > 0
};

struct AttentionCall {
  const AttentionNode* node = nullptr;
  int64_t batch = 1;
  ConstRows x;  // whole
  std::span<const GroupStats> x_stats;
  Rows y;  // whole; may be the memory of x
  BandStats* y_stats = nullptr;
};

// What an Ops keeps from call to call besides the arrays of its calls, buffer by buffer. A buffer
// holds the most that a call needed, until fit_workspace lets some go.
struct WorkspaceBytes {
  int64_t slots = 0;      // tiles of every thread
  int64_t sums = 0;       // of statistics
  int64_t attention = 0;  // projections and keys

  int64_t total() const { return slots + sums + attention; }
  WorkspaceBytes at_least(const WorkspaceBytes& o) const {
    return {std::max(slots, o.slots), std::max(sums, o.sums), std::max(attention, o.attention)};
  }
};

// A whole graph is lowered (lower() in graph.h) before Ops run it: a 1x1 shortcut is a node of its
// own there, so that the sum is the same whether or not the shortcut was kept in memory.
//
// Implementations split work over their own threads, call `tick` from the calling thread now and
// then (it throws to cancel), and give the same bytes for any number of threads, any batch a
// picture is in, and any split of y into calls.
class Ops {
 public:
  using Tick = std::function<void(double fraction)>;  // of this call, 0 to 1

  virtual ~Ops() = default;
  virtual DType element() const = 0;  // of activations: F32 or F64
  // Bands are the rows of y that one unit of work makes: the grid of `ConvCall::y` and of
  // BandStats. Band 0 has first_band_rows, the others band_rows, the last what is left. Both depend
  // on the node's shape and the machine's instruction set alone.
  virtual int64_t band_rows(const Graph& graph, const Node& node) const = 0;
  virtual int64_t first_band_rows(const Graph& graph, const Node& node) const {
    return band_rows(graph, node);
  }
  // Rows [first, last) of x that rows [first, last) of y are made from, inside the picture.
  virtual std::pair<int64_t, int64_t> input_rows(const Graph& graph, const ConvNode& node,
                                                 int64_t first, int64_t last) const;

  // Weights as the kernels read them (transformed, repacked): a pass over a picture may be many
  // calls, but prepares once. Bytes that prepare() fills at `memory` (64-byte aligned); 0: none.
  // Prepares call tick(0): no fraction of a picture is made.
  virtual int64_t prepared_bytes(const Graph&, const Node&) const { return 0; }
  virtual void prepare(const Graph&, const Node&, void* /*memory*/, const Tick&) {}
  // Memory for prepare() and for calls of up to `rows` rows of y.
  virtual WorkspaceBytes workspace(const Graph&, const Node&, int64_t /*batch*/,
                                   int64_t /*rows*/) const {
    return {};
  }
  virtual WorkspaceBytes held_workspace() const { return {}; }
  // Lets go of what the buffers hold beyond `most`.
  virtual void fit_workspace(const WorkspaceBytes& /*most*/) {}
  // Of the kernels, to remember their speed by: "avx512-f32-2".
  virtual std::string name() const = 0;
  virtual int threads() const = 0;
  virtual std::string algorithm(const Graph& graph, const Node& node) const = 0;
  virtual double flop_executed(const Graph& graph, const Node& node) const = 0;

  virtual void conv(const ConvCall& call, const Tick& tick) = 0;
  virtual void attention(const AttentionCall& call, const Tick& tick) = 0;
};

}  // namespace calotype
