#include "cuda/session.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <optional>
#include <span>

#include "core/cat.h"
#include "core/checked.h"
#include "cuda/observer.h"
#include "ops/machine.h"

namespace calotype::cuda {
namespace {

constexpr int kOldest = 80;  // sm_80: mma.sync of bf16, cp.async
constexpr size_t kPlansKept = 32;
// One call's picture travels while the next one is computed.
constexpr size_t kSlots = 2;
// Of the scale and offset of latents: two floats a channel, at most 4 * 1024 channels.
constexpr int64_t kMapBytes = 32 << 10;
// Bytes a second of an H100 (docs/performance_gpu.md): over the bus, each way, both ways at once;
// of its memory, as convolutions that it limits reach.
constexpr double kHopperBus = 50e9, kHopperMemory = 1.6e12;

const char* precision_name(Precision precision) {
  return precision == Precision::kF32   ? "f32"
         : precision == Precision::kF16 ? "f16"
         : precision == Precision::kFP8 ? "fp8"
                                        : "bf16";
}

Precision resolve(Precision precision) {
  if (precision == Precision::kFast) {
    fail(ErrorCode::kUnsupported,
         "the precision \"fast\" is the CPU's; the GPU has bf16, f16, fp8 and f32");
  }
  return precision == Precision::kAuto ? Precision::kBF16 : precision;
}

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

int64_t dense_bytes(Extent e, int64_t batch, DType dtype) {
  return checked_mul(checked_mul(checked_mul(e.h, e.w), checked_mul(e.c, batch)),
                     byte_count(dtype, {1}));
}

// FNV-1a over the operations of a graph and where their weights are: the same for all sizes of one
// network, different for its halves and for other models.
uint64_t fingerprint_of(const Graph& graph) {
  uint64_t hash = 0xcbf29ce484222325;
  const auto add = [&](const auto& value) {
    for (const std::byte byte : std::as_bytes(std::span(&value, 1))) {
      hash = (hash ^ static_cast<uint64_t>(byte)) * 0x100000001b3;
    }
  };
  const auto add_conv = [&](const Conv2d& conv) {
    add(conv.weight.data);
    add(conv.in);
    add(conv.out);
    add(conv.kernel);
  };
  for (const Node& node : graph.nodes()) {
    add(output_of(node).id);
    for (const Activation a : inputs_of(node)) add(a.id);
    if (const auto* conv = std::get_if<ConvNode>(&node)) {
      add_conv(conv->conv);
      add(conv->sampling);
      if (conv->shortcut) add_conv(*conv->shortcut);
      if (conv->norm) add(conv->norm->weight.data);
    } else {
      add(std::get<AttentionNode>(node).weights.query.data);
    }
  }
  add(graph.output().id);
  return hash;
}

bool is_capturing(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  return cudaStreamIsCapturing(stream, &status) == cudaSuccess &&
         status != cudaStreamCaptureStatusNone;
}

DeviceArray advanced(DeviceArray array, int64_t first) {
  if (array.on_device) {
    array.data =
        static_cast<char*>(array.data) + first * array.strides[0] * byte_count(array.dtype, {1});
  }
  return array;
}

}  // namespace

Session::Session(const DeviceOptions& options, bool portable) : device_(options.device) {
  cudaDeviceProp properties = {};
  check(cudaGetDeviceProperties(&properties, device_), "cudaGetDeviceProperties");
  name_ = properties.name;
  architecture_ = 10 * properties.major + properties.minor;
  if (architecture_ < kOldest) {
    fail(ErrorCode::kUnsupported, "the GPU ", device_, " (", name_, ") is of architecture sm_",
         architecture_, "; sm_", kOldest, " or later is needed");
  }
  target_.precision = resolve(options.precision);
  target_.hopper = architecture_ == 90 && !portable;
  if (target_.precision == Precision::kFP8 && !target_.hopper) {
    fail(ErrorCode::kUnsupported, "the precision fp8 needs the kernels of sm_90a, and the GPU ",
         device_, " (", name_, ") runs the portable ones; use bf16");
  }
  if (architecture_ == 90) {
    target_.bus_rate = kHopperBus;
    target_.memory_rate = kHopperMemory;
  }
  target_.processors = attribute(cudaDevAttrMultiProcessorCount, device_);
  target_.shared_bytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device_);
  element_ = target_.precision == Precision::kF32   ? Element::kF32
             : target_.precision == Precision::kF16 ? Element::kF16
                                                    : Element::kBF16;
}

Session::~Session() {
  int previous = 0;
  cudaGetDevice(&previous);
  cudaSetDevice(device_);
  cudaDeviceSynchronize();
  cudaSetDevice(previous);
}

std::string Session::description() const {
  return cat(name_, " (", target_.hopper ? "sm_90a" : "portable", " kernels, ",
             precision_name(target_.precision), ")");
}

Machine Session::machine(cudaStream_t stream) const {
  Machine machine;
  machine.processors = target_.processors;
  machine.architecture = architecture_;
  machine.shared_bytes = target_.shared_bytes;
  machine.overlap = architecture_ == 90;  // what the kernels are compiled for, see launch.cuh
  machine.stream = stream;
  return machine;
}

std::shared_ptr<const GraphPlan> Session::plan_of(const Graph& graph, int64_t batch, int64_t room) {
  const Extent in = graph.extent(graph.input());
  const auto key = std::make_tuple(fingerprint_of(graph), in.h, in.w, batch, room);
  const auto found = plans_.find(key);
  if (found != plans_.end()) return found->second;
  if (plans_.size() >= kPlansKept) plans_.clear();
  std::optional<GraphPlan> plan =
      room == kWhole ? plan_graph(graph, batch, target_) : plan_strips(graph, target_, room);
  if (!plan) return nullptr;
  auto kept = std::make_shared<const GraphPlan>(std::move(*plan));
  plans_[key] = kept;
  return kept;
}

std::shared_ptr<const GraphWeights> Session::weights(const Graph& graph, const GraphPlan& plan) {
  std::shared_ptr<const GraphWeights>& kept = weights_[fingerprint_of(graph)];
  if (!kept) kept = std::make_shared<GraphWeights>(graph, plan, element_, machine(compute_));
  return kept;
}

int64_t Session::held_bytes() const {
  int64_t bytes = arena_.bytes() + map_.bytes();
  for (const auto& [of, kept] : weights_) bytes += kept ? kept->bytes() : 0;
  for (const Slot& slot : slots_) bytes += slot.bytes();
  return bytes;
}

int64_t Session::bound_of(int64_t memory) const {
  if (memory > 0) return memory;
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return (static_cast<int64_t>(free) + held_bytes()) / 4 * 3;
}

int64_t Session::least_room(const Graph& graph) {
  const Extent in = graph.extent(graph.input());
  const auto key = std::make_tuple(fingerprint_of(graph), in.h, in.w);
  const auto found = least_rooms_.find(key);
  if (found != least_rooms_.end()) return found->second;
  if (least_rooms_.size() >= kPlansKept) least_rooms_.clear();
  return least_rooms_[key] = least_strip_room(graph, target_);
}

int64_t Session::slot_bytes(const Graph& graph, const GraphPlan& plan, int64_t batch) const {
  int64_t bytes = 0;
  for (const Activation a : {graph.input(), graph.output()}) {
    const bool by_strips = plan.activations[static_cast<size_t>(a.id)].home == Home::kHost;
    if (!by_strips) bytes += dense_bytes(graph.extent(a), batch, DType::kF32);
  }
  return bytes;
}

int64_t Session::pass_bytes(const Graph& graph, const GraphPlan& plan, int64_t arena_bytes,
                            int64_t batch, size_t slots) const {
  const int64_t slot = checked_mul(slot_bytes(graph, plan, batch), static_cast<int64_t>(slots));
  return plan.weight_bytes + std::max(arena_bytes + slot, GraphWeights::staging_bytes(graph)) +
         kMapBytes;
}

int64_t Session::pass_bytes(const Graph& graph, const Cut& cut) {
  const std::shared_ptr<const GraphPlan> plan = plan_of(graph, cut.pictures, cut.room);
  return pass_bytes(graph, *plan, plan->arena_bytes, cut.pictures, cut.slots);
}

int64_t Session::least_by_strips(const Graph& graph, size_t slots) {
  const int64_t room = least_room(graph);
  return pass_bytes(graph, *plan_of(graph, 1, room), room, 1, slots);
}

// Pinned memory is taken from all other programs.
void Session::check_host_room(const Graph& graph, const GraphPlan& plan) const {
  if (plan.host_bytes <= host_.bytes()) return;
  const int64_t room = (available_memory() / 2 + host_.bytes() / 2);
  if (plan.host_bytes <= room) return;
  const Extent in = graph.extent(graph.input());
  fail(ErrorCode::kOutOfMemory, "one input of ", in.w, "x", in.h, " takes ", plan.host_bytes,
       " bytes of host memory beside the GPU's; the bound is ", room,
       " bytes, half of what is free");
}

Session::Cut Session::cut_to_strips(const Graph& graph, size_t slots, int64_t bound,
                                    bool asked_for) {
  Cut cut = {1, std::min<size_t>(slots, 1), bound};
  const int64_t needed = least_by_strips(graph, cut.slots);
  if (needed > bound) {
    const Extent in = graph.extent(graph.input());
    fail(ErrorCode::kOutOfMemory, "one input of ", in.w, "x", in.h, " takes ", needed,
         " bytes of GPU memory, by strips; the bound is ", bound, " bytes",
         asked_for ? "" : ", three quarters of what is free");
  }
  // All that else is needed; the larger the room, the less goes by strips.
  const std::shared_ptr<const GraphPlan> plan = plan_of(graph, 1, least_room(graph));
  const int64_t slot = slot_bytes(graph, *plan, 1) * static_cast<int64_t>(cut.slots);
  cut.room = bound - plan->weight_bytes - kMapBytes - slot;
  if (!asked_for) {  // the same plan, and result, where a little more or less is free
    const int64_t step = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(cut.room)) / 8);
    cut.room = std::max(cut.room / step * step, least_room(graph));
  }
  check_host_room(graph, *plan_of(graph, 1, cut.room));
  return cut;
}

Session::Cut Session::cut(const Graph& graph, int64_t batch, bool through_slots, int64_t memory) {
  Cut cut = {batch, through_slots ? size_t{1} : size_t{0}, memory};
  const auto weights = weights_.find(fingerprint_of(graph));
  if (memory == 0 && !through_slots && weights != weights_.end() && weights->second &&
      plan_of(graph, batch)->arena_bytes <= arena_.bytes()) {
    cut.bound = std::numeric_limits<int64_t>::max();  // nothing is allocated: no need to ask
    return cut;
  }
  cut.bound = bound_of(memory);
  const auto fits = [&](size_t slots) {
    return pass_bytes(graph, {.pictures = cut.pictures, .slots = slots}) <= cut.bound;
  };
  while (!fits(cut.slots)) {
    if (cut.pictures == 1) return cut_to_strips(graph, cut.slots, cut.bound, memory > 0);
    cut.pictures = (cut.pictures + 1) / 2;
  }
  if (through_slots && cut.pictures < batch && fits(kSlots)) cut.slots = kSlots;
  return cut;
}

void Session::make_room(const Graph& graph, const GraphPlan& plan, Slot* slot, int64_t in_bytes,
                        int64_t out_bytes, int64_t bound) {
  const uint64_t half = fingerprint_of(graph);
  const auto weights = weights_.find(half);
  const bool packed = weights != weights_.end() && weights->second;
  const auto excess = [&] {
    int64_t packing = packed ? 0 : arena_.bytes() + GraphWeights::staging_bytes(graph);
    int64_t running = std::max(arena_.bytes(), plan.arena_bytes);
    int64_t rest = held_bytes() - arena_.bytes() + (packed ? 0 : plan.weight_bytes);
    if (slot != nullptr) {
      packing += slot->bytes();
      running +=
          std::max(slot->input.bytes(), in_bytes) + std::max(slot->output.bytes(), out_bytes);
      rest -= slot->bytes();
    }
    return rest + std::max(running, packing) > bound;
  };
  if (!excess()) return;
  check(cudaEventSynchronize(last_), "cudaEventSynchronize");
  slots_.remove_if([](const Slot& other) { return !other.taken; });
  if (slot != nullptr) {
    slot->input.release();
    slot->output.release();
  }
  if (excess() && (!packed || arena_.bytes() > plan.arena_bytes)) arena_.release();
  if (excess()) std::erase_if(weights_, [&](const auto& entry) { return entry.first != half; });
}

DevicePlan Session::plan(const Graph& graph, int64_t batch, int64_t memory) {
  const DeviceScope scope(device_);
  const std::lock_guard<std::mutex> lock(mutex_);
  DevicePlan found;
  found.minimum_bytes =
      std::min(pass_bytes(graph, {.pictures = 1, .slots = 1}), least_by_strips(graph, 1));
  const Cut cut = this->cut(graph, batch, true, memory);
  const std::shared_ptr<const GraphPlan> pass = plan_of(graph, cut.pictures, cut.room);
  found.memory_bytes = cut.bound;
  // A bound of that many bytes works too.
  found.peak_bytes = std::max(pass_bytes(graph, cut), found.minimum_bytes);
  found.host_bytes = pass->host_bytes;
  for (size_t i = 0; i < graph.nodes().size(); i++) {
    const NodePlan& node = pass->nodes[i];
    const double flop = flop_executed(graph, graph.nodes()[i], node);
    found.flop_executed += static_cast<double>(batch) * flop;
    found.seconds +=
        static_cast<double>(batch) * (node.strips ? node.strips->seconds : flop / target_.rate());
  }
  const std::shared_ptr<const GraphPlan> whole = plan_of(graph, 1);
  found.flop_again = found.flop_executed;
  for (size_t i = 0; i < graph.nodes().size(); i++) {
    found.flop_again -=
        static_cast<double>(batch) * flop_executed(graph, graph.nodes()[i], whole->nodes[i]);
  }
  if (!pass->by_strips) found.flop_again = 0;  // but for rounding
  if (target_.precision == Precision::kF32 || architecture_ != 90) found.seconds = 0;
  return found;
}

const float2* Session::input_affine(const InputMap* map) {
  if (map == nullptr || map->scale.empty()) return nullptr;
  std::vector<float2> values;
  for (size_t i = 0; i < map->scale.size(); i++) {
    values.push_back({map->scale[i], map->offset.at(i)});
  }
  const bool same = values.size() == map_values_.size() &&
                    std::memcmp(values.data(), map_values_.data(), values.size() * 8) == 0;
  if (!same) {
    check(cudaEventSynchronize(last_), "cudaEventSynchronize");  // nobody reads the old one
    map_.grow(static_cast<int64_t>(values.size() * 8), "the latents' scale");
    check(cudaMemcpy(map_.data(), values.data(), values.size() * 8, cudaMemcpyHostToDevice),
          "cudaMemcpy");
    map_values_ = std::move(values);
  }
  return static_cast<const float2*>(map_.data());
}

Session::Cut Session::smaller(const Graph& graph, int64_t pictures, const Cut& cut) {
  if (pictures == 1) return cut_to_strips(graph, cut.slots, bound_of(0), false);
  Cut half = cut;
  half.pictures = (pictures + 1) / 2;
  return half;
}

void Session::run(const DeviceCall& call) {
  if (call.batch < 1) return;
  const DeviceScope scope(device_);
  const bool watched = Observer::is_needed(call);
  std::unique_lock<std::mutex> lock(mutex_);
  const bool through_slots = !call.input.on_device || !call.output.on_device;
  Cut cut = this->cut(*call.graph, call.batch, through_slots, call.memory);
  if (cut.room != kWhole && !through_slots &&
      is_capturing(static_cast<cudaStream_t>(call.stream))) {
    fail(ErrorCode::kUnsupported,
         "a picture that goes by strips cannot be captured: within the bound on GPU memory it does "
         "not fit as a whole");
  }
  std::deque<Pending> pending;
  bool emptied = false;
  try {
    for (int64_t first = 0; first < call.batch;) {
      const int64_t count = std::min(cut.pictures, call.batch - first);
      if (!pending.empty() && pending.size() >= cut.slots) {
        lock.unlock();
        finish(pending);
        lock.lock();
      }
      std::optional<Observer> observer;
      if (watched) observer.emplace(call, first, count, target_.element_bytes());
      try {
        Cut now = cut;
        if (emptied) now.bound = 0;
        pass(call, first, count, now, observer ? &*observer : nullptr, pending, lock);
        first += count;
      } catch (const Error& error) {
        if (error.code() != ErrorCode::kOutOfMemory || (emptied && cut.room != kWhole)) throw;
        if (emptied) cut = smaller(*call.graph, count, cut);
        emptied = true;  // first without what is only kept
        continue;
      }
      if (!observer) continue;
      lock.unlock();
      observer->report();
      while (pending.size() > 1) finish(pending);
      lock.lock();
    }
    lock.unlock();
    while (!pending.empty()) finish(pending);
  } catch (const Error& error) {
    if (lock.owns_lock()) lock.unlock();
    // What was launched still uses the caller's device memory, and slots.
    const bool on_host = !call.input.on_device && !call.output.on_device;
    if (error.code() != ErrorCode::kCancelled || !on_host) cudaDeviceSynchronize();
    while (!pending.empty()) give_slot(pending);
    throw;
  } catch (...) {
    if (lock.owns_lock()) lock.unlock();
    cudaDeviceSynchronize();
    while (!pending.empty()) give_slot(pending);
    throw;
  }
}

// A call that is watched never waits for others here: they may be waiting for it.
Session::Slot* Session::take_slot(bool watched, std::deque<Pending>& pending,
                                  std::unique_lock<std::mutex>& lock) {
  while (!watched && slots_out_ >= kSlots) {
    if (pending.empty()) {
      slot_given_.wait(lock);
    } else {
      lock.unlock();
      finish(pending);
      lock.lock();
    }
  }
  auto slot = std::ranges::find_if(slots_, [](const Slot& one) { return !one.taken; });
  if (slot == slots_.end()) slot = slots_.emplace(slots_.end());
  slot->downloaded.wait();  // of a call that was cancelled
  slot->taken = true;
  if (!watched) slots_out_++;
  return &*slot;
}

// The oldest one's. Without the lock.
void Session::give_slot(std::deque<Pending>& pending) {
  const Pending oldest = pending.front();
  pending.pop_front();
  const std::lock_guard<std::mutex> lock(mutex_);
  oldest.slot->taken = false;
  if (!oldest.watched) slots_out_--;
  if (slots_.size() > kSlots) {
    slots_.remove_if([&](const Slot& one) { return &one == oldest.slot; });
  }
  slot_given_.notify_all();
}

// Without the lock.
void Session::finish(std::deque<Pending>& pending) {
  const Pending& oldest = pending.front();
  oldest.slot->downloaded.wait();
  if (oldest.to != nullptr) {
    std::memcpy(oldest.to, oldest.slot->pinned_output.data(), static_cast<size_t>(oldest.bytes));
  }
  give_slot(pending);
}

void Session::pass(const DeviceCall& call, int64_t first, int64_t count, const Cut& cut,
                   Observer* observer, std::deque<Pending>& pending,
                   std::unique_lock<std::mutex>& lock) {
  const Graph& graph = *call.graph;
  const std::shared_ptr<const GraphPlan> kept_plan = plan_of(graph, count, cut.room);
  const GraphPlan& plan = *kept_plan;
  const bool from_host = !call.input.on_device, to_host = !call.output.on_device;
  const bool waits = from_host || to_host;
  // What is on the device was made, or will be read, on the caller's stream.
  cudaStream_t stream = from_host && to_host ? static_cast<cudaStream_t>(compute_)
                                             : static_cast<cudaStream_t>(call.stream);
  const bool capturing = !waits && is_capturing(stream);
  const bool input_by_strips =
      plan.activations[static_cast<size_t>(graph.input().id)].home == Home::kHost;

  Slot* slot = nullptr;
  if (waits) {
    const bool watched = observer != nullptr;
    pending.push_back({take_slot(watched, pending, lock), watched, nullptr, 0});
    slot = pending.back().slot;
  }
  try {
    const Extent in = graph.extent(graph.input()), out = graph.extent(graph.output());
    const int64_t out_bytes = dense_bytes(out, count, call.output.dtype);
    const int64_t in_bytes = dense_bytes(in, count, call.input.dtype);
    make_room(graph, plan, slot, from_host && !input_by_strips ? in_bytes : 0,
              to_host && !plan.by_strips ? out_bytes : 0, cut.bound);
    const std::shared_ptr<const GraphWeights> weights = this->weights(graph, plan);
    if (plan.arena_bytes > arena_.bytes()) {
      check(cudaEventSynchronize(last_), "cudaEventSynchronize");
      arena_.grow(plan.arena_bytes, "activations");
    }
    if (plan.host_bytes > host_.bytes()) {
      check(cudaEventSynchronize(last_), "cudaEventSynchronize");
      host_.grow(plan.host_bytes, "activations");
    }
    GraphRun run;
    run.graph = &graph;
    run.plan = &plan;
    run.weights = weights.get();
    run.element = element_;
    run.batch = static_cast<int>(count);
    run.arena = arena_.data();
    run.host = host_.data();
    run.line = &line_;
    run.input = advanced(call.input, first);
    run.output = advanced(call.output, first);
    if (call.map != nullptr) run.patch = static_cast<int>(call.map->patch);
    run.input_affine = input_affine(call.map);

    if (from_host) {
      slot->pinned_input.grow(in_bytes, "the input");
      run.input.data = slot->pinned_input.data();
      std::memcpy(run.input.data,
                  static_cast<const char*>(call.input.data) + in_bytes / count * first,
                  static_cast<size_t>(in_bytes));
      if (!input_by_strips) {
        slot->input.grow(in_bytes, "the input");
        check(cudaMemcpyAsync(slot->input.data(), slot->pinned_input.data(),
                              static_cast<size_t>(in_bytes), cudaMemcpyHostToDevice, line_.up),
              "cudaMemcpyAsync", "the input");
        slot->uploaded.record(line_.up);
        slot->uploaded.hold(stream);
        run.input.data = slot->input.data();
        run.input.on_device = true;
      }
      if (call.map == nullptr) run.input.strides = nhwc_strides(in.h, in.w, in.c);
    }
    if (to_host) {
      slot->pinned_output.grow(out_bytes, "the output");
      run.output.data = slot->pinned_output.data();
      if (!plan.by_strips) {
        slot->output.grow(out_bytes, "the output");
        run.output.data = slot->output.data();
        run.output.on_device = true;
      }
      run.output.strides = nhwc_strides(out.h, out.w, out.c);
    }
    // Even on the stream of the call before: its handle may stand for another stream by now (one
    // that was made anew, or each thread's own).
    if (!capturing) last_.hold(stream);
    if (observer != nullptr) {
      observer->start(kept_plan, stream);
      run.launched = [observer](size_t) { observer->mark(); };
    }
    run_graph(run, machine(stream));
    if (!capturing) last_.record(stream);
    if (waits) {
      slot->computed.record(stream);
      slot->computed.hold(line_.down);
      if (to_host && !plan.by_strips) {
        check(cudaMemcpyAsync(slot->pinned_output.data(), slot->output.data(),
                              static_cast<size_t>(out_bytes), cudaMemcpyDeviceToHost, line_.down),
              "cudaMemcpyAsync", "the output");
      }
      if (to_host) {
        pending.back().to = static_cast<char*>(call.output.data) + out_bytes / count * first;
        pending.back().bytes = out_bytes;
      }
      slot->downloaded.record(line_.down);
    }
  } catch (...) {
    if (slot != nullptr) {
      cudaDeviceSynchronize();
      slot->taken = false;
      if (!pending.back().watched) slots_out_--;
      pending.pop_back();
      slot_given_.notify_all();
    }
    throw;
  }
}

}  // namespace calotype::cuda
