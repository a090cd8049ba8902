// Errors of CUDA as calotype::Error, with the call and what it was for.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <string>

namespace calotype::cuda {

// Throws Error(kOutOfMemory or kInternal): "CUDA: launch of mma_conv failed: …".
void check(cudaError_t error, const char* call, const char* what = "");
// The same of the driver's functions.
void check_driver(CUresult result, const char* call, const char* what = "");

// The layer that the calling thread works on for as long as this lives, named in errors.
class LayerScope {
 public:
  explicit LayerScope(std::string name);
  ~LayerScope();
  LayerScope(const LayerScope&) = delete;
  LayerScope& operator=(const LayerScope&) = delete;

 private:
  std::string previous_;
};

}  // namespace calotype::cuda
