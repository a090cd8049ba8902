#include "calotype/tensor.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "core/cat.h"
#include "core/no_memory.h"

namespace calotype {
namespace {

constexpr size_t kAlignment = 64;  // a cache line, and the widest vector

float* allocate(int64_t count) {
  const size_t bytes =
      (static_cast<size_t>(count) * sizeof(float) + kAlignment - 1) / kAlignment * kAlignment;
  void* memory = std::aligned_alloc(kAlignment, std::max(bytes, kAlignment));
  if (memory == nullptr) {
    fail_no_memory("a tensor of ", count, " values (", bytes, " bytes)");
  }
  return static_cast<float*>(memory);
}

void check_rank(const Tensor& tensor) {
  if (tensor.shape().size() != 4) {
    fail(ErrorCode::kInvalidArgument, "a tensor of rank 4 is expected, not of shape ",
         shape_string(tensor.shape()));
  }
}

}  // namespace

void Tensor::Free::operator()(float* p) const noexcept {
  if (!borrowed) std::free(p);
}

Tensor::Tensor(Shape shape) : shape_(std::move(shape)), size_(byte_count(DType::kF32, shape_) / 4) {
  data_.reset(allocate(size_));
}

Tensor::Tensor(Shape shape, std::span<const float> values) : Tensor(std::move(shape)) {
  if (static_cast<int64_t>(values.size()) != size_) {
    fail(ErrorCode::kInvalidArgument, "a tensor of shape ", shape_string(shape_), " takes ", size_,
         " values, not ", values.size());
  }
  std::copy(values.begin(), values.end(), data_.get());
}

Tensor Tensor::borrow(Shape shape, const float* values, std::shared_ptr<const void> owner) {
  Tensor tensor;
  tensor.shape_ = std::move(shape);
  tensor.size_ = element_count(tensor.shape_);
  tensor.data_ = {const_cast<float*>(values), Free(std::move(owner))};
  return tensor;
}

Tensor Tensor::clone() const {
  Tensor copy(shape_);
  std::copy(data_.get(), data_.get() + size_, copy.data());
  return copy;
}

TensorView Tensor::view() const {
  return {DType::kF32, shape_, reinterpret_cast<const std::byte*>(data_.get())};
}

Tensor nchw_to_nhwc(const Tensor& nchw) {
  check_rank(nchw);
  const int64_t n = nchw.dim(0), c = nchw.dim(1), h = nchw.dim(2), w = nchw.dim(3);
  Tensor nhwc({n, h, w, c});
  for (int64_t b = 0; b < n; b++) {
    for (int64_t p = 0; p < h * w; p++) {
      for (int64_t k = 0; k < c; k++)
        nhwc.data()[(b * h * w + p) * c + k] = nchw.data()[(b * c + k) * h * w + p];
    }
  }
  return nhwc;
}

Tensor nhwc_to_nchw(const Tensor& nhwc) {
  check_rank(nhwc);
  const int64_t n = nhwc.dim(0), h = nhwc.dim(1), w = nhwc.dim(2), c = nhwc.dim(3);
  Tensor nchw({n, c, h, w});
  for (int64_t b = 0; b < n; b++) {
    for (int64_t k = 0; k < c; k++) {
      for (int64_t p = 0; p < h * w; p++)
        nchw.data()[(b * c + k) * h * w + p] = nhwc.data()[(b * h * w + p) * c + k];
    }
  }
  return nchw;
}

}  // namespace calotype
