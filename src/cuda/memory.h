// Owners of what CUDA gives out.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <utility>

#include "cuda/check.h"

namespace calotype::cuda {

// Makes a device current for its scope: the caller's own choice comes back.
class DeviceScope {
 public:
  explicit DeviceScope(int device) {
    check(cudaGetDevice(&previous_), "cudaGetDevice");
    check(cudaSetDevice(device), "cudaSetDevice");
  }
  ~DeviceScope() { cudaSetDevice(previous_); }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  int previous_ = 0;
};

// Memory of the device, or pinned memory of the host.
class Buffer {
 public:
  enum class Kind { kDevice, kPinned };

  explicit Buffer(Kind kind = Kind::kDevice) : kind_(kind) {}
  ~Buffer() { release(); }
  Buffer(Buffer&& other) noexcept
      : kind_(other.kind_),
        data_(std::exchange(other.data_, nullptr)),
        bytes_(std::exchange(other.bytes_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(kind_, other.kind_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  // At least `bytes`; what it held is lost where it grows. Throws Error(kOutOfMemory) that says
  // what for, how much was asked for and how much there is. Nobody may be using it.
  void grow(int64_t bytes, const char* what);
  void release();
  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  Kind kind_;
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

class Stream {
 public:
  Stream() {
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  operator cudaStream_t() const { return stream_; }  // NOLINT: stands for it

 private:
  cudaStream_t stream_ = nullptr;
};

class Event {
 public:
  explicit Event(unsigned flags = cudaEventDisableTiming) {
    check(cudaEventCreateWithFlags(&event_, flags), "cudaEventCreate");
  }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record(cudaStream_t stream) { check(cudaEventRecord(event_, stream), "cudaEventRecord"); }
  void wait() { check(cudaEventSynchronize(event_), "cudaEventSynchronize"); }
  // `stream` goes on when what was recorded is done.
  void hold(cudaStream_t stream) {
    check(cudaStreamWaitEvent(stream, event_, 0), "cudaStreamWaitEvent");
  }
  operator cudaEvent_t() const { return event_; }  // NOLINT: stands for it

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace calotype::cuda
