#include "cuda/plugin.h"

#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>

#include "calotype/export.h"
#include "core/cat.h"
#include "cuda/build_id.h"
#include "cuda/memory.h"
#include "cuda/session.h"

namespace calotype::cuda {
namespace {

// CALOTYPE_CUDA_KERNELS=portable keeps to the kernels that every GPU since sm_80 has.
bool portable_kernels_only() {
  const char* choice = std::getenv("CALOTYPE_CUDA_KERNELS");
  if (choice == nullptr || *choice == '\0' || std::strcmp(choice, "auto") == 0) return false;
  if (std::strcmp(choice, "portable") == 0) return true;
  fail(ErrorCode::kInvalidArgument, "CALOTYPE_CUDA_KERNELS is \"", choice,
       "\"; it may be auto or portable");
}

class Backend final : public DeviceBackend {
 public:
  Backend() {
    const cudaError_t error = cudaGetDeviceCount(&devices_);
    if (error == cudaErrorInsufficientDriver || error == cudaErrorStubLibrary) {
      int driver = 0;
      cudaDriverGetVersion(&driver);
      if (driver == 0) fail(ErrorCode::kNotFound, "there is no NVIDIA driver on this machine");
      fail(ErrorCode::kNotFound, "the NVIDIA driver supports CUDA ", driver / 1000, ".",
           driver % 1000 / 10, "; Calotype was built with CUDA ", CUDART_VERSION / 1000, ".",
           CUDART_VERSION % 1000 / 10, " and needs a newer driver");
    }
    if (error == cudaErrorNoDevice || (error == cudaSuccess && devices_ == 0)) {
      fail(ErrorCode::kNotFound, "there is no NVIDIA GPU on this machine");
    }
    if (error != cudaSuccess) {
      fail(ErrorCode::kNotFound, "the NVIDIA driver cannot be used: ", cudaGetErrorString(error));
    }
  }

  int device_count() const override { return devices_; }

  std::string device_name(int device) const override {
    check_device(device);
    cudaDeviceProp properties = {};
    check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
    return properties.name;
  }

  std::shared_ptr<DeviceSession> open(const DeviceOptions& options) override {
    check_device(options.device);
    const DeviceScope scope(options.device);
    return std::make_shared<Session>(options, portable_kernels_only());
  }

 private:
  void check_device(int device) const {
    if (device < 0 || device >= devices_) {
      fail(ErrorCode::kNotFound, "there is no GPU ", device, "; this machine has ", devices_,
           devices_ == 1 ? " GPU, number 0" : " GPUs, numbered from 0");
    }
  }

  int devices_ = 0;
};

}  // namespace
}  // namespace calotype::cuda

extern "C" {
CALOTYPE_API const char* calotype_cuda_build_id() { return calotype::kCudaBuildId; }
CALOTYPE_API calotype::DeviceBackend* calotype_cuda_open() {
  return std::make_unique<calotype::cuda::Backend>().release();
}
}
