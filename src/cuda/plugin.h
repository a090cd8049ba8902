// What libcalotype_cuda.so exports, with C linkage.
#pragma once

#include "ops/device_backend.h"

namespace calotype {

// The build id of the plugin (see cuda_build_id), to be compared before anything else is called.
inline constexpr char kCudaBuildIdSymbol[] = "calotype_cuda_build_id";
using CudaBuildIdFunction = const char*();

// A new backend, owned by the caller; throws Error(kNotFound) without a driver or a device.
inline constexpr char kCudaOpenSymbol[] = "calotype_cuda_open";
using CudaOpenFunction = DeviceBackend*();

}  // namespace calotype
