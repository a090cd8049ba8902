// Where an autoencoder's jobs run that a GPU takes.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "calotype/autoencoder_kl.h"
#include "ops/device_backend.h"

namespace calotype {

// The sessions of one model, opened when they are first asked for and kept: weights stay on the
// GPU. May be used from several threads.
class DeviceSessions {
 public:
  // The session that a job with these options runs in; null where it runs on the CPU, and `reason`
  // is then why, where the machine has a GPU. Throws Error(kNotFound) where Backend::kCuda was
  // asked for and cannot be had, Error(kUnsupported) for a precision that the GPU or the model does
  // not allow.
  std::shared_ptr<DeviceSession> open(const RunOptions& options, const AutoencoderKLConfig& config,
                                      std::string* reason = nullptr);

 private:
  std::mutex mutex_;
  std::map<std::pair<int, Precision>, std::shared_ptr<DeviceSession>> sessions_;
};

// Whether the CPU may take a job where a GPU fails it: nobody asked for the GPU, by name, by number
// or by a precision that it alone has.
bool cpu_may_take(const RunOptions& options);

// Runs a graph on host memory. `output` is dense NHWC of `dtype`.
void run_on_device(DeviceSession& session, const Graph& graph, const Tensor& input, void* output,
                   DType dtype, const RunOptions& options);

Plan plan_on_device(DeviceSession& session, const Graph& graph, int64_t batch,
                    const RunOptions& options);

}  // namespace calotype
