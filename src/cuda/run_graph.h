// Launches the kernels of a graph, in order, on one stream; strips come and go on two others.
#pragma once

#include <array>
#include <functional>

#include "cuda/kernels/kernels.h"
#include "cuda/memory.h"
#include "cuda/plan.h"
#include "cuda/weights.h"
#include "ops/device_backend.h"

namespace calotype::cuda {

// What orders strips: see run_strips.cc.
struct StripLine {
  Stream up, down;
  std::array<Event, 2> uploaded, computed, downloaded;
  Event begun, drained;
};

struct GraphRun {
  const Graph* graph = nullptr;
  const GraphPlan* plan = nullptr;
  const GraphWeights* weights = nullptr;
  Element element = Element::kBF16;
  int batch = 1;
  void* arena = nullptr;  // plan->arena_bytes
  // On the device; the affine of its map too. What goes by strips: there, or in pinned memory.
  DeviceArray input, output;
  void* host = nullptr;       // pinned, plan->host_bytes
  StripLine* line = nullptr;  // where the plan has strips
  int patch = 1;
  const float2* input_affine = nullptr;
  // Called when the kernels of operation i are launched.
  std::function<void(size_t i)> launched;
};

void run_graph(const GraphRun& run, const Machine& machine);

// "wgmma", "mma.sync", "float32".
const char* algorithm_of(const NodePlan& plan);

}  // namespace calotype::cuda
