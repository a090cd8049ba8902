// One model on one GPU in one precision.
#pragma once

#include <condition_variable>
#include <deque>
#include <list>
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

class Observer;

class Session final : public DeviceSession {
 public:
  // `portable` keeps to the kernels that every GPU has.
  Session(const DeviceOptions& options, bool portable);
  ~Session() override;

  Precision precision() const override { return target_.precision; }
  std::string description() const override;
  DevicePlan plan(const Graph& graph, int64_t batch, int64_t memory) override;
  void run(const DeviceCall& call) override;

 private:
  // What arrays in host memory pass through.
  struct Slot {
    Buffer input, output;
    Buffer pinned_input{Buffer::Kind::kPinned}, pinned_output{Buffer::Kind::kPinned};
    Event uploaded, computed, downloaded;
    bool taken = false;

    int64_t bytes() const { return input.bytes() + output.bytes(); }
    Slot() = default;
    Slot(const Slot&) = delete;
    Slot& operator=(const Slot&) = delete;
    ~Slot() { cudaEventSynchronize(downloaded); }
  };
  // A part of a call's batch whose output is on its way to host memory.
  struct Pending {
    Slot* slot;
    bool watched;  // by an Observer
    void* to;
    int64_t bytes;
  };
  static constexpr int64_t kWhole = -1;
  // How a batch is cut so that a bound on memory suffices.
  struct Cut {
    int64_t pictures = 1;  // at a time
    size_t slots = 1;      // in use at once; 0 where nothing is in host memory
    int64_t bound = 0;
    int64_t room = kWhole;  // for activations, where a picture goes by strips
  };

  // Null where one picture has no plan in `room`; kWhole: all of it is in device memory.
  std::shared_ptr<const GraphPlan> plan_of(const Graph& graph, int64_t batch,
                                           int64_t room = kWhole);
  std::shared_ptr<const GraphWeights> weights(const Graph& graph, const GraphPlan& plan);
  Cut cut(const Graph& graph, int64_t batch, bool through_slots, int64_t memory);
  // One picture at a time, by strips. Throws Error(kOutOfMemory) where even they do not fit.
  Cut cut_to_strips(const Graph& graph, size_t slots, int64_t bound, bool asked_for);
  // After a cut whose pass found no memory.
  Cut smaller(const Graph& graph, int64_t pictures, const Cut& cut);
  // What a pass needs of device memory and cannot do without, and what of it passes through slots.
  int64_t pass_bytes(const Graph& graph, const GraphPlan& plan, int64_t arena_bytes, int64_t batch,
                     size_t slots) const;
  int64_t pass_bytes(const Graph& graph, const Cut& cut);
  int64_t least_room(const Graph& graph);  // see least_strip_room
  int64_t least_by_strips(const Graph& graph, size_t slots);
  int64_t slot_bytes(const Graph& graph, const GraphPlan& plan, int64_t batch) const;
  void check_host_room(const Graph& graph, const GraphPlan& plan) const;
  int64_t bound_of(int64_t memory) const;
  int64_t held_bytes() const;
  // Gives back what the pass does not need, as far as its bound says so.
  void make_room(const Graph& graph, const GraphPlan& plan, Slot* slot, int64_t in_bytes,
                 int64_t out_bytes, int64_t bound);
  // Launches everything; calls nobody back.
  void pass(const DeviceCall& call, int64_t first, int64_t count, const Cut& cut,
            Observer* observer, std::deque<Pending>& pending, std::unique_lock<std::mutex>& lock);
  const float2* input_affine(const InputMap* map);
  Slot* take_slot(bool watched, std::deque<Pending>& pending, std::unique_lock<std::mutex>& lock);
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
  std::map<std::tuple<uint64_t, int64_t, int64_t, int64_t, int64_t>,
           std::shared_ptr<const GraphPlan>>
      plans_;
  std::map<std::tuple<uint64_t, int64_t, int64_t>, int64_t> least_rooms_;
  std::map<uint64_t, std::shared_ptr<const GraphWeights>> weights_;
  Buffer arena_, map_;
  std::vector<float2> map_values_;
  Buffer host_{Buffer::Kind::kPinned};  // activations that the device has no room for
  Stream compute_;
  StripLine line_;
  Event last_;  // the arena is free when it is done
  std::list<Slot> slots_;
  size_t slots_out_ = 0;  // with calls that nobody watches
};

}  // namespace calotype::cuda
