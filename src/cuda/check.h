// Errors of CUDA as calotype::Error, with the call and what it was for.
#pragma once

#include <cuda_runtime_api.h>

namespace calotype::cuda {

// Throws Error(kOutOfMemory or kInternal): "CUDA: launch of mma_conv failed: …".
void check(cudaError_t error, const char* call, const char* what = "");
// The layer that the calling thread works on, named in errors; "" where none.
void set_current_layer(const char* name);

}  // namespace calotype::cuda
