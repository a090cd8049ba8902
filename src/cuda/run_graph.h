// Launches the kernels of a graph, in order, on one stream.
#pragma once

#include <functional>

#include "cuda/kernels/kernels.h"
#include "cuda/plan.h"
#include "cuda/weights.h"
#include "ops/device_backend.h"

namespace calotype::cuda {

struct GraphRun {
  const Graph* graph = nullptr;
  const GraphPlan* plan = nullptr;
  const GraphWeights* weights = nullptr;
  Element element = Element::kBF16;
  int batch = 1;
  void* arena = nullptr;  // plan->arena_bytes
  // On the device; the affine of its map too.
  DeviceArray input, output;
  int patch = 1;
  const float2* input_affine = nullptr;
  // Called when the kernels of operation i are launched.
  std::function<void(size_t i)> launched;
};

void run_graph(const GraphRun& run, const Machine& machine);

// "wgmma", "mma.sync", "float32"; what a layer's kernel computes in FLOP, one picture.
const char* algorithm_of(const NodePlan& plan);
double flop_executed(const Graph& graph, const Node& node, const NodePlan& plan);

}  // namespace calotype::cuda
