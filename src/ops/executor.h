// Runs a planned graph on a backend: follows the steps of each pass, deals memory, reports
// progress.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "calotype/autoencoder_kl.h"
#include "ops/graph.h"
#include "ops/ops.h"
#include "ops/planner.h"
#include "ops/row_memory.h"

namespace calotype {

struct ExecuteOptions {
  std::string scratch_folder;  // where spilled activations go
  ProgressCallback progress;
  std::vector<LayerReport>* layers = nullptr;
  bool mapped_weights = false;  // the pages of weights may be let go when they have been read
  KeptPages* kept = nullptr;    // memory to begin with; what is left in the end
  int64_t keep_bytes = 0;       // of it and of the workspace, at most
};

// `input` and `output` are whole activations of ops.element(), NHWC; `graph` and `plan` are of the
// same lowered graph. Throws Error(kCancelled, kIo, kOutOfMemory).
void execute(const Graph& graph, Ops& ops, const ExecutionPlan& plan, int64_t batch,
             const void* input, void* output, const ExecuteOptions& options);

}  // namespace calotype
