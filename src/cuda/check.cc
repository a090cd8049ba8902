#include "cuda/check.h"

#include <utility>

#include "core/cat.h"

namespace calotype::cuda {
namespace {

thread_local std::string current_layer;

[[noreturn]] void fail_call(bool out_of_memory, const char* call, const char* what,
                            const std::string& reason) {
  const std::string of = *what != '\0' ? cat(" of ", what) : "";
  const std::string at = current_layer.empty() ? "" : cat(" at ", current_layer);
  fail(out_of_memory ? ErrorCode::kOutOfMemory : ErrorCode::kInternal, "CUDA: ", call, of, at,
       " failed: ", reason);
}

// What the driver itself calls a result: the driver is not linked.
std::string driver_text(CUresult result, const char* function) {
  void* address = nullptr;
  cudaDriverEntryPointQueryResult found = {};
  const char* text = nullptr;
  if (cudaGetDriverEntryPointByVersion(function, &address, 12000, cudaEnableDefault, &found) ==
          cudaSuccess &&
      found == cudaDriverEntryPointSuccess && address != nullptr) {
    reinterpret_cast<decltype(&cuGetErrorString)>(address)(result, &text);
  }
  return text != nullptr ? text : "unknown error";
}

}  // namespace

LayerScope::LayerScope(std::string name)
    : previous_(std::exchange(current_layer, std::move(name))) {}
LayerScope::~LayerScope() { current_layer = std::move(previous_); }

void check(cudaError_t error, const char* call, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // the next call starts clean
  fail_call(error == cudaErrorMemoryAllocation, call, what,
            cat(cudaGetErrorString(error), " (", cudaGetErrorName(error), ")"));
}

void check_driver(CUresult result, const char* call, const char* what) {
  if (result == CUDA_SUCCESS) return;
  fail_call(result == CUDA_ERROR_OUT_OF_MEMORY, call, what,
            cat(driver_text(result, "cuGetErrorString"), " (",
                driver_text(result, "cuGetErrorName"), ")"));
}

}  // namespace calotype::cuda
