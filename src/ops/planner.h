// Chooses how every activation is there for its readers, so that a job fits into its memory at the
// least cost.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "ops/graph.h"
#include "ops/ops.h"
#include "ops/schedule.h"
#include "ops/speed.h"

namespace calotype {

struct PlanOptions {
  std::function<void()> tick;  // called now and then; throws to cancel
  int64_t memory =
      0;  // bytes for activations, workspace and the weights in use; 0: as much as is fastest
  bool may_spill = true;  // false where the scratch folder is memory itself
  MachineSpeed speed;
  int64_t output_bytes =
      0;  // of the caller's output where they count here: its memory comes when it is written
  bool mapped_weights =
      false;  // weights come from a file, so that their pages count while they are used
};

// What a pass holds at most.
struct PassMemory {
  int64_t rows = 0;     // bytes of chunks: activations, kept ones too, and prepared weights
  int64_t weights = 0;  // of mapped weights, while they are prepared
  int64_t output = 0;   // of the caller's output, where this pass writes it
  WorkspaceBytes workspace;
};

struct ExecutionPlan {
  std::vector<Means> means;  // of each activation
  std::vector<Pass> passes;
  std::vector<int64_t> strip_rows;  // of each pass, rows of its target
  std::vector<PassMemory> memory;   // of each pass
  int64_t chunk_bytes = 0;
  int64_t peak_bytes = 0;
  int64_t spilled_bytes = 0;            // written to the scratch file, in all
  std::vector<int64_t> scratch_offset;  // of each activation; -1: not spilled
  int64_t scratch_bytes = 0;            // size of the file
  double flop_executed = 0;             // all that is computed, again or not
  double flop_again = 0;                // of these, what is computed again
  double seconds = 0;                   // expected
};

// The fastest plan found that fits. `graph` is lowered. Throws Error(kOutOfMemory), naming the
// smallest number of bytes that works.
ExecutionPlan plan_execution(const Graph& graph, const Ops& ops, int64_t batch,
                             const PlanOptions& options);

// The plan of the smallest peak.
ExecutionPlan smallest_plan(const Graph& graph, const Ops& ops, int64_t batch,
                            const PlanOptions& options);

// Bytes of a node's matrices as they are stored.
int64_t weight_bytes(const Node& node);

}  // namespace calotype
