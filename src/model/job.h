// One encoding or decoding: a graph, a backend and a memory budget, planned and run.
#pragma once

#include <cstdint>
#include <memory>

#include "calotype/autoencoder_kl.h"
#include "ops/executor.h"
#include "ops/graph.h"
#include "ops/ops.h"
#include "ops/planner.h"

namespace calotype {

// RunOptions::memory, else CALOTYPE_MEMORY, else 0.
int64_t memory_asked_for(int64_t memory);

class Job {
 public:
  // `graph` as the network says it, of one picture's size.
  Job(const Graph& graph, const Model& model, int64_t batch, const RunOptions& options);

  // Throws Error(kOutOfMemory) where the budget is too small, naming the smallest that works.
  Plan plan();
  // Jobs that run at once in this process share the budget (see ledger.h): one that finds too
  // little left of it takes a smaller plan, or waits.
  Tensor run(const Tensor& input);

 private:
  int64_t shared_bytes() const;
  int64_t tensor_bytes(Activation a) const;
  bool output_comes_last() const;
  int64_t base_bytes() const;
  int64_t budget() const;
  PlanOptions plan_options(int64_t budget) const;
  int64_t smallest_budget();
  ExecutionPlan plan_group(int64_t pictures, int64_t budget) const;
  int64_t group(int64_t budget) const;
  Tensor run_groups(const Tensor& input, int64_t group, ExecutionPlan plan, ExecuteOptions options);

  Graph graph_;  // lowered
  const Graph network_;
  const Model& model_;
  const int64_t batch_;
  const RunOptions& options_;
  std::unique_ptr<Ops> ops_;
  double done_ = 0;  // of the batch, while what is left of it is planned
};

}  // namespace calotype
