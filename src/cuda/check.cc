#include "cuda/check.h"

#include <string>

#include "core/cat.h"

namespace calotype::cuda {
namespace {

thread_local std::string current_layer;

}  // namespace

void set_current_layer(const char* name) { current_layer = name; }

void check(cudaError_t error, const char* call, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // the next call starts clean
  const std::string of = *what != '\0' ? cat(" of ", what) : "";
  const std::string at = current_layer.empty() ? "" : cat(" at ", current_layer);
  fail(error == cudaErrorMemoryAllocation ? ErrorCode::kOutOfMemory : ErrorCode::kInternal,
       "CUDA: ", call, of, at, " failed: ", cudaGetErrorString(error), " (",
       cudaGetErrorName(error), ")");
}

}  // namespace calotype::cuda
