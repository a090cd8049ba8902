// The weights of a graph in device memory, as the kernels read them.
#pragma once

#include <vector>

#include "cuda/kernels/kernels.h"
#include "cuda/memory.h"
#include "cuda/plan.h"

namespace calotype::cuda {

struct ConvWeights {
  const void* packed = nullptr;
  const float* bias = nullptr;
  const float* scale = nullptr;  // see Conv
};

struct NodeWeights {
  ConvWeights conv;  // of an attention: the queries
  ConvWeights out;   // of an attention
  NormWeights norm;
};

// Attention as the kernels compute it. Softmax ignores what is constant along a row, so
//   q_i . k_j = (Wk^T (Wq x_i + bq)) . x_j + constant(i),
// and the average of v over the tokens is Wv (average of x) + bv. Keys and values are then x
// itself, with two projections left instead of four: queries Wk^T Wq x + Wk^T bq, scaled by log2(e)
// / sqrt(C) for 2^s instead of e^s, and out Wo Wv y + Wo bv + bo.
class GraphWeights {
 public:
  // Uploads and packs; returns when it is done.
  GraphWeights(const Graph& graph, const GraphPlan& plan, Element element, const Machine& machine);
  // Device memory that the constructor needs besides, and gives back.
  static int64_t staging_bytes(const Graph& graph);

  const NodeWeights& node(size_t i) const { return nodes_[i]; }
  int64_t bytes() const { return memory_.bytes(); }

 private:
  Buffer memory_;
  std::vector<NodeWeights> nodes_;
};

}  // namespace calotype::cuda
