// The seam to machines with memory of their own (GPUs): they run whole graphs, not single
// operations. The implementation lives in a plugin that is opened at run time, so that the library
// never links CUDA; see cuda/loader.h.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "calotype/autoencoder_kl.h"
#include "ops/graph.h"

namespace calotype {

// An array of pictures, element (b, y, x, c) at data + b * strides[0] + y * strides[1] + x *
// strides[2] + c * strides[3] (strides in elements). Inputs are F32, F16, BF16, or U8 (2 v / 255 -
// 1). Outputs are F32, F16, BF16, or U8 (round(255 * clamp(v / 2 + 0.5)), NaN to 0).
struct DeviceArray {
  void* data = nullptr;
  DType dtype = DType::kF32;
  std::array<int64_t, 4> strides = {};
  bool on_device = false;  // device memory; else host memory, dense NHWC
};

// Strides of dense NHWC memory.
inline std::array<int64_t, 4> nhwc_strides(int64_t h, int64_t w, int64_t c) {
  return {h * w * c, w * c, c, 1};
}

// What the input of a graph is of the array that is given: g[b, y, x, c] = a[b, y / p, x / p, c p^2
// + (y % p) p + x % p] * scale + offset, scale and offset per channel of a. Empty: a itself.
struct InputMap {
  int64_t patch = 1;
  std::vector<float> scale, offset;
};

struct DeviceCall {
  const Graph* graph = nullptr;
  int64_t batch = 1;
  DeviceArray input, output;
  const InputMap* map = nullptr;
  // With both arrays on the device: the stream to work on. The call then returns before the work is
  // done. Null is the default stream. Arrays in host memory: the call waits.
  void* stream = nullptr;
  // Bytes of device memory that the session may hold while this runs, weights included; 0: three
  // quarters of what is free, counting what it holds already.
  int64_t memory = 0;
  const ProgressCallback* progress = nullptr;
  std::vector<LayerReport>* layers = nullptr;  // measured one after the other
};

// What a call from and to host memory takes, known before it runs.
struct DevicePlan {
  int64_t peak_bytes = 0;  // of device memory: weights, activations, workspace, arrays on their way
  int64_t minimum_bytes = 0;  // the smallest DeviceCall::memory that works
  int64_t host_bytes = 0;     // of pinned host memory, for activations that the device cannot hold
  int64_t memory_bytes = 0;   // the bound that was planned for
  double flop_executed = 0;
  double flop_again = 0;  // of these, what is computed again to save memory
  double seconds = 0;     // expected; 0 where that was never measured
};

// One model on one device in one precision: keeps its weights there, and the memory of the last
// call. May be used from several threads; calls on one session run one after the other.
class DeviceSession {
 public:
  virtual ~DeviceSession() = default;
  virtual Precision precision() const = 0;
  virtual std::string description() const = 0;  // "NVIDIA H100 80GB HBM3 (sm_90a kernels, bf16)"
  // `memory` as in DeviceCall. Throws Error(kOutOfMemory) where it is too small for any plan.
  virtual DevicePlan plan(const Graph& graph, int64_t batch, int64_t memory) = 0;
  virtual void run(const DeviceCall& call) = 0;
};

struct DeviceOptions {
  int device = 0;
  Precision precision = Precision::kAuto;  // kAuto is kBF16
};

class DeviceBackend {
 public:
  virtual ~DeviceBackend() = default;
  virtual int device_count() const = 0;
  virtual std::string device_name(int device) const = 0;
  // Throws Error(kNotFound) for a device that is not there, kUnsupported for one that is too old.
  virtual std::shared_ptr<DeviceSession> open(const DeviceOptions& options) = 0;
};

}  // namespace calotype
