// Runs a graph on a backend: plans memory from lifetimes, calls the operations in order, reports
// progress.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "calotype/autoencoder_kl.h"
#include "ops/graph.h"
#include "ops/ops.h"

namespace calotype {

// Where each activation lives in one arena. Input and output of the graph are the caller's and have
// no place in it.
struct MemoryPlan {
  std::vector<int64_t> offset;  // bytes, of each activation; -1 for input and output
  int64_t arena_bytes = 0;
  int64_t workspace_bytes = 0;  // of the greediest operation
};
MemoryPlan plan_memory(const Graph& graph, const Ops& ops, int64_t batch);

// `input` and `output` are whole activations of ops.element(), NHWC.
void execute(const Graph& graph, Ops& ops, int64_t batch, const void* input, void* output,
             const ProgressCallback& progress, std::vector<LayerReport>* layers);

}  // namespace calotype
