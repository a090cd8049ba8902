// Element types: names, sizes, and conversion to and from numbers.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "calotype/tensor.h"
#include "core/cat.h"
#include "core/narrowing.h"

namespace calotype {
namespace {

constexpr int64_t kQ8BlockSize = 32;                 // values
constexpr int64_t kQ8BlockBytes = 2 + kQ8BlockSize;  // an f16 scale, then int8 values

template <class T>
T load(const std::byte* p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

template <class T>
void store(std::byte* p, T value) {
  std::memcpy(p, &value, sizeof value);
}

float bf16_to_float(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

uint16_t float_to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value)) return static_cast<uint16_t>((bits >> 16) | 0x40);  // stays a NaN
  return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

// A small float with `exponent_bits` and `mantissa_bits`, IEEE-like: subnormals, bias 2^(e-1) - 1.
float small_to_float(uint32_t bits, int exponent_bits, int mantissa_bits, bool has_infinity) {
  const uint32_t sign = bits >> (exponent_bits + mantissa_bits);
  const uint32_t exponent_mask = (1u << exponent_bits) - 1,
                 mantissa_mask = (1u << mantissa_bits) - 1;
  const uint32_t exponent = (bits >> mantissa_bits) & exponent_mask,
                 mantissa = bits & mantissa_mask;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  float magnitude;
  if (has_infinity && exponent == exponent_mask) {
    magnitude = mantissa == 0 ? std::numeric_limits<float>::infinity()
                              : std::numeric_limits<float>::quiet_NaN();
  } else if (!has_infinity && exponent == exponent_mask && mantissa == mantissa_mask) {
    magnitude = std::numeric_limits<float>::quiet_NaN();
  } else if (exponent == 0) {
    magnitude = std::ldexp(static_cast<float>(mantissa), 1 - bias - mantissa_bits);
  } else {
    magnitude = std::ldexp(static_cast<float>(mantissa + mantissa_mask + 1),
                           static_cast<int>(exponent) - bias - mantissa_bits);
  }
  return sign != 0 ? -magnitude : magnitude;
}

float f16_to_float(uint16_t bits) {
  // Normal numbers, the common case, by moving the bits; the rest by the general rule.
  const uint32_t exponent = (bits >> 10) & 0x1F;
  if (exponent != 0 && exponent != 0x1F) {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
    return std::bit_cast<float>(sign | ((exponent + 112) << 23) |
                                (static_cast<uint32_t>(bits & 0x3FF) << 13));
  }
  return small_to_float(bits, 5, 10, true);
}

// Rounds to nearest even. Beyond the largest number: infinity, or for types without one (and F8, by
// convention) the largest.
uint32_t float_to_small(float value, int exponent_bits, int mantissa_bits, float largest,
                        uint32_t nan_bits, uint32_t overflow_bits) {
  const uint32_t sign = std::signbit(value) ? 1u << (exponent_bits + mantissa_bits) : 0;
  if (std::isnan(value)) return sign | nan_bits;
  const float magnitude = std::abs(value);
  const int bias = (1 << (exponent_bits - 1)) - 1;
  int exponent = 0;
  if (magnitude > 0 && std::isfinite(magnitude)) exponent = std::ilogb(magnitude);
  exponent = std::max(exponent, 1 - bias);  // subnormals share the smallest exponent
  const int quantum = exponent - mantissa_bits;
  const float rounded = std::ldexp(std::nearbyint(std::ldexp(magnitude, -quantum)), quantum);
  if (!(rounded <= largest)) return sign | overflow_bits;
  if (rounded == 0) return sign;
  int final_exponent = std::max(std::ilogb(rounded), 1 - bias);
  const auto scaled = static_cast<uint32_t>(std::ldexp(rounded, mantissa_bits - final_exponent));
  const uint32_t hidden = 1u << mantissa_bits;
  if (scaled < hidden) return sign | scaled;  // subnormal
  return sign | (static_cast<uint32_t>(final_exponent + bias) << mantissa_bits) | (scaled - hidden);
}

uint16_t float_to_f16(float value) {
  return static_cast<uint16_t>(float_to_small(value, 5, 10, 65504.0f, 0x7E00, 0x7C00));
}

template <class Stored, class Number, class Convert>
void copy_each(const std::byte* data, std::span<Number> out, Convert convert) {
  for (size_t i = 0; i < out.size(); i++) {
    out[i] = static_cast<Number>(convert(load<Stored>(data + i * sizeof(Stored))));
  }
}

template <class Number>
void copy_q8_0(const std::byte* data, int64_t first, std::span<Number> out) {
  for (size_t i = 0; i < out.size(); i++) {
    const int64_t index = first + static_cast<int64_t>(i);
    const std::byte* block = data + index / kQ8BlockSize * kQ8BlockBytes;
    const float scale = f16_to_float(load<uint16_t>(block));
    out[i] = static_cast<Number>(scale) *
             static_cast<Number>(load<int8_t>(block + 2 + index % kQ8BlockSize));
  }
}

int64_t element_bytes(DType dtype) {
  switch (dtype) {
    case DType::kF64:
    case DType::kI64:
    case DType::kU64:
      return 8;
    case DType::kF32:
    case DType::kI32:
    case DType::kU32:
      return 4;
    case DType::kF16:
    case DType::kBF16:
    case DType::kI16:
    case DType::kU16:
      return 2;
    default:
      return 1;
  }
}

template <class Number>
void copy_any(const TensorView& view, int64_t first, std::span<Number> out) {
  if (view.dtype == DType::kQ8_0) return copy_q8_0(view.data, first, out);
  const std::byte* data = view.data + first * element_bytes(view.dtype);
  const auto same = [](auto v) { return v; };
  switch (view.dtype) {
    case DType::kF64:
      return copy_each<double>(data, out, same);
    case DType::kF32:
      return copy_each<float>(data, out, same);
    case DType::kF16:
      return copy_each<uint16_t>(data, out, f16_to_float);
    case DType::kBF16:
      return copy_each<uint16_t>(data, out, bf16_to_float);
    case DType::kF8E4M3:
      return copy_each<uint8_t>(data, out,
                                [](uint8_t v) { return small_to_float(v, 4, 3, false); });
    case DType::kF8E5M2:
      return copy_each<uint8_t>(data, out, [](uint8_t v) { return small_to_float(v, 5, 2, true); });
    case DType::kQ8_0:
      return;
    case DType::kI64:
      return copy_each<int64_t>(data, out, same);
    case DType::kI32:
      return copy_each<int32_t>(data, out, same);
    case DType::kI16:
      return copy_each<int16_t>(data, out, same);
    case DType::kI8:
      return copy_each<int8_t>(data, out, same);
    case DType::kU64:
      return copy_each<uint64_t>(data, out, same);
    case DType::kU32:
      return copy_each<uint32_t>(data, out, same);
    case DType::kU16:
      return copy_each<uint16_t>(data, out, same);
    case DType::kU8:
    case DType::kBool:
      return copy_each<uint8_t>(data, out, same);
  }
}

// GGML's quantisation: scale = max |v| / 127, values rounded to nearest.
void convert_q8_0(std::span<const float> values, std::byte* out) {
  for (size_t first = 0; first < values.size(); first += kQ8BlockSize, out += kQ8BlockBytes) {
    const auto block = values.subspan(first, kQ8BlockSize);
    float maximum = 0;
    for (const float v : block) maximum = std::max(maximum, std::abs(v));
    const float scale = maximum / 127.0f, inverse = scale == 0 ? 0 : 1 / scale;
    store(out, float_to_f16(scale));
    for (size_t i = 0; i < kQ8BlockSize; i++) {
      store(out + 2 + i, static_cast<int8_t>(std::lround(block[i] * inverse)));
    }
  }
}

}  // namespace

std::string_view dtype_name(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return "F64";
    case DType::kF32:
      return "F32";
    case DType::kF16:
      return "F16";
    case DType::kBF16:
      return "BF16";
    case DType::kF8E4M3:
      return "F8_E4M3";
    case DType::kF8E5M2:
      return "F8_E5M2";
    case DType::kQ8_0:
      return "Q8_0";
    case DType::kI64:
      return "I64";
    case DType::kI32:
      return "I32";
    case DType::kI16:
      return "I16";
    case DType::kI8:
      return "I8";
    case DType::kU64:
      return "U64";
    case DType::kU32:
      return "U32";
    case DType::kU16:
      return "U16";
    case DType::kU8:
      return "U8";
    case DType::kBool:
      return "BOOL";
  }
  return "?";
}

bool is_weight_dtype(DType dtype) { return dtype <= DType::kQ8_0; }

std::string shape_string(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); i++) text += cat(i == 0 ? "" : ", ", shape[i]);
  return text + "]";
}

int64_t element_count(const Shape& shape) {
  constexpr int64_t kLimit = int64_t{1} << 62;
  int64_t count = 1;
  bool empty = false;
  for (const int64_t dim : shape) {
    if (dim < 0)
      fail(ErrorCode::kInvalidData, "the shape ", shape_string(shape), " has a negative side");
    if (dim == 0) {
      empty = true;
    } else if (count > kLimit / dim) {
      fail(ErrorCode::kInvalidData, "the shape ", shape_string(shape),
           " has more elements than 2^62");
    } else {
      count *= dim;
    }
  }
  return empty ? 0 : count;
}

int64_t byte_count(DType dtype, const Shape& shape) {
  const int64_t count = element_count(shape);
  if (dtype == DType::kQ8_0) {
    if (count % kQ8BlockSize != 0) {
      fail(ErrorCode::kInvalidData, "a Q8_0 tensor of shape ", shape_string(shape),
           " cannot be: its elements must be a multiple of ", kQ8BlockSize);
    }
    return count / kQ8BlockSize * kQ8BlockBytes;  // count <= 2^62 and 34/32 of it fits
  }
  const int64_t bytes = element_bytes(dtype);
  if (count > std::numeric_limits<int64_t>::max() / bytes) {
    fail(ErrorCode::kInvalidData, "a tensor of shape ", shape_string(shape),
         " is more than 2^63 bytes");
  }
  return count * bytes;
}

void copy_elements(const TensorView& view, int64_t first, std::span<float> out) {
  copy_any(view, first, out);
}

void copy_elements(const TensorView& view, int64_t first, std::span<double> out) {
  copy_any(view, first, out);
}

void check_narrowing(std::span<const float> values, DType dtype, const std::string& what) {
  // The smallest number that rounds to infinity: half a step above the largest finite one.
  constexpr float kNoF16 = 65520, kNoBF16 = 0x1.ffp127f;
  float limit = std::numeric_limits<float>::infinity();
  if (dtype == DType::kF16) limit = kNoF16;
  if (dtype == DType::kBF16) limit = kNoBF16;
  if (dtype == DType::kQ8_0) limit = kNoF16 * 127;  // the scale of a block is an f16
  for (size_t i = 0; i < values.size(); i++) {
    if (!std::isfinite(values[i]) || std::abs(values[i]) < limit) continue;
    fail(ErrorCode::kInvalidData, what, " holds ", values[i], ", which overflows ",
         dtype == DType::kF16    ? "f16; use bf16 or f32"
         : dtype == DType::kBF16 ? "bf16; use f32"
                                 : "q8_0; use bf16 or f32");
  }
}

void convert_elements(std::span<const float> values, DType dtype, std::byte* out) {
  const auto each = [&](auto convert) {
    for (const float value : values) {
      const auto stored = convert(value);
      store(out, stored);
      out += sizeof stored;
    }
  };
  switch (dtype) {
    case DType::kF64:
      return each([](float v) { return static_cast<double>(v); });
    case DType::kF32:
      return each([](float v) { return v; });
    case DType::kF16:
      return each(float_to_f16);
    case DType::kBF16:
      return each(float_to_bf16);
    case DType::kF8E4M3:
      return each([](float v) {
        return static_cast<uint8_t>(float_to_small(v, 4, 3, 448.0f, 0x7F, 0x7E));
      });
    case DType::kF8E5M2:
      return each([](float v) {
        return static_cast<uint8_t>(float_to_small(v, 5, 2, 57344.0f, 0x7F, 0x7B));
      });
    case DType::kQ8_0:
      return convert_q8_0(values, out);
    default:
      fail(ErrorCode::kUnsupported, "numbers are not stored as ", dtype_name(dtype));
  }
}

}  // namespace calotype
