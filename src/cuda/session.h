// One model on one GPU in one precision.
#pragma once

#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "cuda/kernels/kernels.h"
#include "cuda/memory.h"
#include "cuda/plan.h"
#include "cuda/run_graph.h"
#include "cuda/weights.h"
#include "ops/device_backend.h"

namespace calotype::cuda {

class Session final : public DeviceSession {
 public:
  // `portable` keeps to the kernels that every GPU has.
  Session(const DeviceOptions& options, bool portable);
  ~Session() override;

  Precision precision() const override { return target_.precision; }
  std::string description() const override;
  int64_t planned_bytes(const Graph& graph, int64_t batch, int64_t memory) override;
  void run(const DeviceCall& call) override;

 private:
  // What arrays in host memory pass through.
  struct Slot {
    Buffer input, output;
    Buffer pinned_input{Buffer::Kind::kPinned}, pinned_output{Buffer::Kind::kPinned};
    Event uploaded, computed, downloaded;

    Slot() = default;
    Slot(const Slot&) = delete;
    Slot& operator=(const Slot&) = delete;
    ~Slot() { cudaEventSynchronize(downloaded); }
  };
  // A part of a call's batch whose output is on its way to host memory.
  struct Pending {
    std::unique_ptr<Slot> slot;
    bool watched;  // by an Observer
    void* to;
    int64_t bytes;
  };
  class Observer;

  std::shared_ptr<const GraphPlan> plan(const Graph& graph, int64_t batch);
  std::shared_ptr<const GraphWeights> weights(const Graph& graph, const GraphPlan& plan);
  // Pictures at a time, so that `memory` suffices.
  int64_t pass_size(const Graph& graph, int64_t batch, int64_t memory);
  int64_t pass_bytes(const Graph& graph, int64_t batch);
  // Launches everything; calls nobody back.
  void pass(const DeviceCall& call, int64_t first, int64_t count, Observer* observer,
            std::deque<Pending>& pending, std::unique_lock<std::mutex>& lock);
  const float2* input_affine(const InputMap* map);
  std::unique_ptr<Slot> take_slot(bool watched, std::deque<Pending>& pending,
                                  std::unique_lock<std::mutex>& lock);
  void give_slot(std::deque<Pending>& pending);
  void finish(std::deque<Pending>& pending);
  Machine machine(cudaStream_t stream) const;

  int device_ = 0;
  std::string name_;
  int architecture_ = 0;
  Target target_;
  Element element_ = Element::kBF16;

  std::mutex mutex_;  // never held while the caller is called back
  std::condition_variable slot_given_;
  // By what the graph is made of, see fingerprint_of.
  std::map<std::tuple<uint64_t, int64_t, int64_t, int64_t>, std::shared_ptr<const GraphPlan>>
      plans_;
  std::map<uint64_t, std::shared_ptr<const GraphWeights>> weights_;
  Buffer arena_, map_;
  std::vector<float2> map_values_;
  Stream compute_, up_, down_;
  Event last_;  // the arena is free when it is done
  std::vector<std::unique_ptr<Slot>> free_slots_;
  size_t slots_out_ = 0;  // with calls that nobody watches
};

}  // namespace calotype::cuda
