// Dense tensors: `Tensor` owns float32 values, `TensorView` refers to bytes of any dtype that
// something else owns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "calotype/export.h"

namespace calotype {

enum class DType : uint8_t {
  kF64,
  kF32,
  kF16,
  kBF16,
  kF8E4M3,  // OCP FP8, no infinities ("F8_E4M3" in safetensors)
  kF8E5M2,
  kQ8_0,  // GGML: blocks of 32 consecutive values, one f16 scale and 32 int8
  kI64,
  kI32,
  kI16,
  kI8,
  kU64,
  kU32,
  kU16,
  kU8,
  kBool,
};

// As safetensors spells it: "F32", "BF16", "F8_E4M3"; "Q8_0" as GGUF does.
CALOTYPE_API std::string_view dtype_name(DType dtype);
// True for the dtypes that weights may have: F64, F32, F16, BF16, F8_E4M3, F8_E5M2, Q8_0.
CALOTYPE_API bool is_weight_dtype(DType dtype);

using Shape = std::vector<int64_t>;

CALOTYPE_API std::string shape_string(const Shape& shape);  // "[1, 64, 64, 16]"
// Product of the dimensions. Throws Error(kInvalidData) on a negative dimension or where the
// product exceeds 2^62.
CALOTYPE_API int64_t element_count(const Shape& shape);
// Bytes of a dense tensor. Throws as element_count does; for Q8_0 also where the elements are no
// multiple of 32.
CALOTYPE_API int64_t byte_count(DType dtype, const Shape& shape);

// Row-major, dense; `data` need not be aligned. Valid as long as its owner (a mapped file, an
// array) lives.
struct TensorView {
  DType dtype = DType::kF32;
  Shape shape;
  const std::byte* data = nullptr;

  int64_t size() const { return element_count(shape); }
};

// Elements [first, first + out.size()) of `view` as numbers. `view.dtype` must be a weight dtype or
// U8/I8 … integers.
CALOTYPE_API void copy_elements(const TensorView& view, int64_t first, std::span<float> out);
CALOTYPE_API void copy_elements(const TensorView& view, int64_t first, std::span<double> out);

// Rounds `values` to `dtype` (F64, F32, F16, BF16: to nearest even, overflow to infinity; Q8_0 by
// blocks of 32; F8: saturating) and writes byte_count bytes to `out`.
CALOTYPE_API void convert_elements(std::span<const float> values, DType dtype, std::byte* out);

// An owned float32 array, row-major. Images and latents are NHWC: [batch, height, width, channels].
// Movable, not copyable by accident.
class CALOTYPE_API Tensor {
 public:
  Tensor() = default;
  explicit Tensor(Shape shape);  // values are uninitialised
  Tensor(Shape shape, std::span<const float> values);
  // Refers to values that outlive the tensor, or that `owner` keeps alive: no copy. They need no
  // more alignment than a float, and must not be written through the tensor.
  static Tensor borrow(Shape shape, const float* values,
                       std::shared_ptr<const void> owner = nullptr);
  Tensor(Tensor&&) noexcept = default;
  Tensor& operator=(Tensor&&) noexcept = default;
  Tensor clone() const;

  const Shape& shape() const { return shape_; }
  int64_t dim(size_t i) const { return shape_.at(i); }
  int64_t size() const { return size_; }
  float* data() { return data_.get(); }
  const float* data() const { return data_.get(); }
  std::span<float> values() { return {data_.get(), static_cast<size_t>(size_)}; }
  std::span<const float> values() const { return {data_.get(), static_cast<size_t>(size_)}; }
  TensorView view() const;

 private:
  struct Free {
    Free() noexcept : borrowed(false) {}
    explicit Free(std::shared_ptr<const void> keep) noexcept
        : borrowed(true), owner(std::move(keep)) {}
    bool borrowed;
    std::shared_ptr<const void> owner;
    void operator()(float* p) const noexcept;
  };
  Shape shape_;
  int64_t size_ = 0;
  std::unique_ptr<float[], Free> data_;  // 64-byte aligned, but where it is borrowed
};

// [N, C, H, W] <-> [N, H, W, C]. Throws Error(kInvalidArgument) unless the rank is 4.
CALOTYPE_API Tensor nchw_to_nhwc(const Tensor& nchw);
CALOTYPE_API Tensor nhwc_to_nchw(const Tensor& nhwc);

}  // namespace calotype
