// The network as data: a list of the few fused operations that it is made of.
//
// `src/model/` writes the network once, by calling Graph's operations in the order of the data.
// Nothing runs then: the graph says what every backend has to compute, and from it memory is
// planned, FLOP counted and progress measured before anything runs.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "calotype/tensor.h"

namespace calotype {

// One picture's size. Activations are [batch, h, w, c]; a graph is the same for every batch.
struct Extent {
  int64_t h = 0, w = 0, c = 0;

  friend bool operator==(const Extent&, const Extent&) = default;
};

// A value of the graph: what one operation makes and others read.
struct Activation {
  int id = -1;
};

// GroupNorm over `groups` groups of channels of one picture (Wu & He 2018), then per channel *
// weight + bias.
struct GroupNorm {
  TensorView weight, bias;  // [C]
  int groups = 32;
  double eps = 1e-6;
};

// Cross-correlation with zero padding of kernel / 2; kernel 1 or 3.
struct Conv2d {
  TensorView weight;  // OIHW
  TensorView bias;    // [O]
  int64_t in = 0, out = 0, kernel = 3;
};

// One head over all channels.
struct AttentionWeights {
  TensorView query, key, value, out;                      // [C, C]: out_channel, in_channel
  TensorView query_bias, key_bias, value_bias, out_bias;  // [C]
};

enum class Sampling {
  kSame,        // stride 1
  kUpsample,    // nearest 2x, then the convolution
  kDownsample,  // zeros right and below, then stride 2: y[i] = sum_k w[k] x[2 i + k]
};

// y = conv(f(x)) + bias [+ residual | + shortcut(residual)], f = silu(norm(.)) where there is a
// norm.
struct ConvNode {
  std::string name;  // "decoder.up_blocks.0.resnets.1.conv2"
  Activation x, y;
  Conv2d conv;
  Sampling sampling = Sampling::kSame;
  std::optional<GroupNorm> norm;
  std::optional<Activation> residual;  // of y's extent, or of the shortcut's input channels
  std::optional<Conv2d> shortcut;      // 1x1 on residual
};

// y = x + out(softmax(q k^T / sqrt(C)) v), q, k, v projections of norm(x) (no SiLU).
struct AttentionNode {
  std::string name;
  Activation x, y;
  GroupNorm norm;
  AttentionWeights weights;
};

using Node = std::variant<ConvNode, AttentionNode>;

class Graph {
 public:
  explicit Graph(Extent input);

  struct ConvOptions {
    Sampling sampling = Sampling::kSame;
    const GroupNorm* norm = nullptr;
    const Activation* residual = nullptr;
    const Conv2d* shortcut = nullptr;
  };
  Activation conv(std::string name, Activation x, const Conv2d& conv, const ConvOptions& options);
  Activation conv(std::string name, Activation x, const Conv2d& conv) {
    return this->conv(std::move(name), x, conv, {});
  }
  Activation attention(std::string name, Activation x, const GroupNorm& norm,
                       const AttentionWeights& weights);
  void set_output(Activation y) { output_ = y; }

  Activation input() const { return {0}; }
  Activation output() const { return output_; }
  const std::vector<Node>& nodes() const { return nodes_; }
  int activations() const { return static_cast<int>(extents_.size()); }
  Extent extent(Activation a) const { return extents_.at(static_cast<size_t>(a.id)); }
  // Groups of the GroupNorm that reads `a`; 0 where none does. Its producer leaves their
  // statistics.
  int stats_groups(Activation a) const { return stats_groups_.at(static_cast<size_t>(a.id)); }

 private:
  Activation add(Extent extent);
  void wants_stats(Activation a, int groups);

  std::vector<Node> nodes_;
  std::vector<Extent> extents_;
  std::vector<int> stats_groups_;
  Activation output_;
};

// The same network with every 1x1 shortcut as a node of its own, before the block's first
// convolution, and added as a residual.
Graph lower(const Graph& graph);

const std::string& name_of(const Node& node);
Activation output_of(const Node& node);
std::vector<Activation> inputs_of(const Node& node);  // x, then residual

// 2 * multiply-adds of the direct algorithm, one picture.
double flop_of(const Graph& graph, const Node& node);

}  // namespace calotype
