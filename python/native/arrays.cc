#include "arrays.h"

#include <bit>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "calotype/error.h"

namespace calotype::python {
namespace {

constexpr auto code_of(nb::dlpack::dtype_code code) { return static_cast<uint8_t>(code); }

bool is(const nb::dlpack::dtype& dtype, nb::dlpack::dtype_code code, int bits) {
  return dtype.code == code_of(code) && dtype.bits == bits && dtype.lanes == 1;
}

std::string describe(const nb::dlpack::dtype& dtype) {
  const char* kind = "of an unknown kind";
  if (dtype.code == code_of(nb::dlpack::dtype_code::Int)) kind = "int";
  if (dtype.code == code_of(nb::dlpack::dtype_code::UInt)) kind = "uint";
  if (dtype.code == code_of(nb::dlpack::dtype_code::Float)) kind = "float";
  if (dtype.code == code_of(nb::dlpack::dtype_code::Bfloat)) kind = "bfloat";
  if (dtype.code == code_of(nb::dlpack::dtype_code::Bool)) kind = "bool";
  if (dtype.code == code_of(nb::dlpack::dtype_code::Complex)) kind = "complex";
  return kind + std::to_string(dtype.bits);
}

struct Half {
  uint16_t bits;
};
struct Bfloat {
  uint16_t bits;
};

float number(float value) { return value; }
float number(double value) { return static_cast<float>(value); }
float number(uint8_t value) { return value; }
float number(Bfloat value) { return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16); }
float number(Half value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000) << 16;
  const uint32_t rest = value.bits & 0x7fff;
  // Shifted into place, a half is a float that is 2^112 too small, subnormals included; infinity
  // and NaN keep their exponent of ones.
  if (rest >= 0x7c00) return std::bit_cast<float>(sign | 0x7f800000 | (rest & 0x3ff) << 13);
  const float scaled = std::bit_cast<float>(rest << 13) * 0x1p112f;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(scaled));
}

// An NHWC view of an array: sides and strides in elements.
struct Grid {
  int64_t n, h, w, c;
  int64_t stride_n, stride_h, stride_w, stride_c;

  // Rows of pixels without holes. A stride of a side of 1 is never taken.
  bool dense() const {
    return (c == 1 || stride_c == 1) && (w == 1 || stride_w == c) &&
           (h == 1 || stride_h == w * c) && (n == 1 || stride_n == h * w * c);
  }
};

Grid grid_of(const AnyArray& array, std::string_view layout) {
  const size_t c = layout == "NCHW" ? 1 : 3, h = layout == "NCHW" ? 2 : 1;
  const auto side = [&](size_t i) { return static_cast<int64_t>(array.shape(i)); };
  return {side(0),         side(h),         side(h + 1),         side(c),
          array.stride(0), array.stride(h), array.stride(h + 1), array.stride(c)};
}

template <class T>
void gather(const T* from, const Grid& g, float scale, float offset, float* to) {
  for (int64_t b = 0; b < g.n; b++) {
    for (int64_t y = 0; y < g.h; y++) {
      const T* row = from + b * g.stride_n + y * g.stride_h;
      for (int64_t x = 0; x < g.w; x++) {
        for (int64_t k = 0; k < g.c; k++) {
          *to++ = number(row[x * g.stride_w + k * g.stride_c]) * scale + offset;
        }
      }
    }
  }
}

void check_readable(const AnyArray& array) {
  const int device = array.device_type();
  if (device != nb::device::cpu::value && device != nb::device::cuda_host::value &&
      device != nb::device::cuda_managed::value && device != nb::device::rocm_host::value) {
    throw Error(ErrorCode::kInvalidArgument,
                "the array is on a device of DLPack type " + std::to_string(device) +
                    ", whose memory the CPU cannot read; move it to the CPU first");
  }
}

}  // namespace

Tensor to_tensor(const AnyArray& array, std::string_view layout, float scale, float offset) {
  check_readable(array);
  if (array.ndim() != 4) {
    throw Error(ErrorCode::kInvalidArgument,
                "an array of rank 4 is expected, not of rank " + std::to_string(array.ndim()));
  }
  const Grid grid = grid_of(array, layout);
  const Shape shape = {grid.n, grid.h, grid.w, grid.c};
  const nb::dlpack::dtype dtype = array.dtype();
  const void* data = array.data();
  const bool is_float = is(dtype, nb::dlpack::dtype_code::Float, 32);
  if (is_float && scale == 1 && offset == 0 && grid.dense() &&
      reinterpret_cast<uintptr_t>(data) % alignof(float) == 0) {
    return Tensor::borrow(shape, static_cast<const float*>(data));
  }
  Tensor tensor(shape);
  const auto take = [&](const auto* from) { gather(from, grid, scale, offset, tensor.data()); };
  if (is_float) {
    take(static_cast<const float*>(data));
  } else if (is(dtype, nb::dlpack::dtype_code::Float, 64)) {
    take(static_cast<const double*>(data));
  } else if (is(dtype, nb::dlpack::dtype_code::Float, 16)) {
    take(static_cast<const Half*>(data));
  } else if (is(dtype, nb::dlpack::dtype_code::Bfloat, 16)) {
    take(static_cast<const Bfloat*>(data));
  } else if (is(dtype, nb::dlpack::dtype_code::UInt, 8)) {
    take(static_cast<const uint8_t*>(data));
  } else {
    throw Error(ErrorCode::kInvalidArgument,
                "the array has the dtype " + describe(dtype) +
                    "; float32, float64, float16, bfloat16 and uint8 can be read");
  }
  return tensor;
}

TensorView to_view(const AnyArray& array, const std::string& name) {
  check_readable(array);
  TensorView view;
  const nb::dlpack::dtype dtype = array.dtype();
  if (is(dtype, nb::dlpack::dtype_code::Float, 32)) {
    view.dtype = DType::kF32;
  } else if (is(dtype, nb::dlpack::dtype_code::Float, 64)) {
    view.dtype = DType::kF64;
  } else if (is(dtype, nb::dlpack::dtype_code::Float, 16)) {
    view.dtype = DType::kF16;
  } else if (is(dtype, nb::dlpack::dtype_code::Bfloat, 16)) {
    view.dtype = DType::kBF16;
  } else {
    throw Error(ErrorCode::kUnsupported,
                "the weight " + name + " has the dtype " + describe(dtype) +
                    "; float32, float64, float16 and bfloat16 can be read");
  }
  int64_t dense = 1;
  for (size_t i = array.ndim(); i-- > 0;) {
    const auto side = static_cast<int64_t>(array.shape(i));
    if (side != 1 && array.stride(i) != dense) {
      throw Error(ErrorCode::kInvalidArgument,
                  "the weight " + name + " is not contiguous; make it so first");
    }
    dense *= side;
    view.shape.insert(view.shape.begin(), side);
  }
  view.data = static_cast<const std::byte*>(array.data());
  return view;
}

nb::object bfloat_bits(const nb::object& array) {
  AnyArray values;
  if (!nb::try_cast(array, values) || !is(values.dtype(), nb::dlpack::dtype_code::Bfloat, 16)) {
    return nb::none();
  }
  check_readable(values);
  std::vector<size_t> sides;
  std::vector<int64_t> strides;
  for (size_t i = 0; i < values.ndim(); i++) {
    sides.push_back(values.shape(i));
    strides.push_back(values.stride(i));
  }
  auto kept = std::make_unique<AnyArray>(values);
  const nb::capsule owner(
      kept.get(), [](void* p) noexcept { std::unique_ptr<AnyArray>(static_cast<AnyArray*>(p)); });
  kept.release();
  return nb::cast(nb::ndarray<nb::numpy, const uint16_t>(values.data(), values.ndim(), sides.data(),
                                                         owner, strides.data()));
}

FloatArray to_numpy(Tensor tensor) {
  auto kept = std::make_unique<Tensor>(std::move(tensor));
  float* data = kept->data();
  size_t sides[4];
  for (size_t i = 0; i < 4; i++) sides[i] = static_cast<size_t>(kept->dim(i));
  const nb::capsule owner(
      kept.get(), [](void* p) noexcept { std::unique_ptr<Tensor>(static_cast<Tensor*>(p)); });
  kept.release();
  return FloatArray(data, 4, sides, owner);
}

ByteArray to_numpy(std::vector<uint8_t> bytes, const Shape& shape) {
  auto kept = std::make_unique<std::vector<uint8_t>>(std::move(bytes));
  uint8_t* data = kept->data();
  size_t sides[4];
  for (size_t i = 0; i < 4; i++) sides[i] = static_cast<size_t>(shape[i]);
  const nb::capsule owner(kept.get(), [](void* p) noexcept {
    std::unique_ptr<std::vector<uint8_t>>(static_cast<std::vector<uint8_t>*>(p));
  });
  kept.release();
  return ByteArray(data, 4, sides, owner);
}

}  // namespace calotype::python
