#include "cuda/memory.h"

#include "core/cat.h"

namespace calotype::cuda {

void Buffer::grow(int64_t bytes, const char* what) {
  if (bytes <= bytes_) return;
  release();
  const auto size = static_cast<size_t>(bytes);
  const cudaError_t error =
      kind_ == Kind::kDevice ? cudaMalloc(&data_, size) : cudaMallocHost(&data_, size);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    data_ = nullptr;
    size_t free = 0, total = 0;
    if (kind_ == Kind::kPinned || cudaMemGetInfo(&free, &total) != cudaSuccess) {
      fail(ErrorCode::kOutOfMemory, "there is no pinned memory of ", bytes, " bytes for ", what);
    }
    fail(ErrorCode::kOutOfMemory, "the GPU has no ", bytes, " bytes for ", what, ": ", free, " of ",
         total, " bytes are free");
  }
  check(error, kind_ == Kind::kDevice ? "cudaMalloc" : "cudaMallocHost", what);
  bytes_ = bytes;
}

void Buffer::release() {
  if (data_ != nullptr) {
    if (kind_ == Kind::kDevice) {
      cudaFree(data_);
    } else {
      cudaFreeHost(data_);
    }
  }
  data_ = nullptr;
  bytes_ = 0;
}

}  // namespace calotype::cuda
