#include "model/device.h"

#include "core/cat.h"
#include "cuda/loader.h"
#include "model/job.h"

namespace calotype {

bool cpu_may_take(const RunOptions& options) {
  return options.backend == Backend::kAuto && options.device == 0 &&
         options.precision != Precision::kF16 && options.precision != Precision::kFP8;
}

std::shared_ptr<DeviceSession> DeviceSessions::open(const RunOptions& options,
                                                    const AutoencoderKLConfig& config,
                                                    std::string* reason) {
  const auto because = [&](const std::string& problem) {
    if (reason != nullptr) *reason = cat("the GPU cannot be used: ", problem);
  };
  const bool wanted = options.backend == Backend::kCuda;
  if (!wanted && options.backend != Backend::kAuto) return nullptr;
  if (!wanted && options.precision == Precision::kFast) return nullptr;  // the CPU's
  if (options.precision == Precision::kF16 && config.force_upcast) {
    fail(ErrorCode::kUnsupported,
         "the model's config says force_upcast: f16 would overflow; use bf16 or f32");
  }
  std::string problem;
  DeviceBackend* backend = wanted ? &cuda_backend() : cuda_backend_or_null(&problem);
  if (backend == nullptr) {
    if (sees_nvidia_gpu()) because(problem);
    return nullptr;
  }
  const auto key = std::make_pair(
      options.device, options.precision == Precision::kAuto ? Precision::kBF16 : options.precision);
  const std::lock_guard<std::mutex> lock(mutex_);
  std::shared_ptr<DeviceSession>& session = sessions_[key];
  if (session) return session;
  try {
    session = backend->open({options.device, options.precision});
  } catch (const Error& error) {
    // A GPU that is too old, full or taken is no reason to fail for who did not ask for it.
    if (!cpu_may_take(options) || error.code() == ErrorCode::kInvalidArgument) throw;
    because(error.what());
  }
  return session;
}

void run_on_device(DeviceSession& session, const Graph& graph, const Tensor& input, void* output,
                   DType dtype, const RunOptions& options) {
  DeviceCall call;
  call.graph = &graph;
  call.batch = input.dim(0);
  call.input.data = const_cast<float*>(input.data());  // only read
  call.output.data = output;
  call.output.dtype = dtype;
  call.memory = memory_asked_for(options.memory);
  call.progress = &options.progress;
  call.layers = options.layers;
  session.run(call);
}

Plan plan_on_device(DeviceSession& session, const Graph& graph, int64_t batch,
                    const RunOptions& options) {
  Plan plan;
  for (const Node& node : graph.nodes()) {
    plan.flop += static_cast<double>(batch) * flop_of(graph, node);
  }
  const DevicePlan found = session.plan(graph, batch, memory_asked_for(options.memory));
  plan.flop_executed = found.flop_executed;
  plan.flop_again = found.flop_again;
  plan.planned_peak_bytes = found.peak_bytes;
  plan.minimum_bytes = found.minimum_bytes;
  plan.host_bytes = found.host_bytes;
  plan.memory_bytes = found.memory_bytes;
  plan.seconds = found.seconds;
  return plan;
}

}  // namespace calotype
