// Element types, every bit pattern of the small ones. The hashes are of what NumPy 2.4 (F16),
// PyTorch 2.15 (BF16, F8) and the gguf package 0.19 (Q8_0) make of the same bits, as float32 with
// NaN replaced by 0.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "calotype/error.h"
#include "calotype/tensor.h"
#include "core/sha256.h"

namespace calotype {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::string sha256_of(const std::vector<float>& values) {
  return sha256_hex(std::as_bytes(std::span(values)));
}

struct SmallFloat {
  DType dtype;
  int bits;
  int nans;
  const char* sha256;
  uint32_t largest;   // bits of the largest finite number
  uint32_t overflow;  // what rounds beyond it
};

std::vector<float> decoded(const SmallFloat& type, uint32_t first, size_t count) {
  std::vector<std::byte> bytes(count * static_cast<size_t>(type.bits / 8));
  for (size_t i = 0; i < count; i++) {
    const uint32_t pattern = first + static_cast<uint32_t>(i);
    const auto narrow = static_cast<uint8_t>(pattern);
    const auto wide = static_cast<uint16_t>(pattern);
    if (type.bits == 8) std::memcpy(&bytes[i], &narrow, 1);
    if (type.bits == 16) std::memcpy(&bytes[2 * i], &wide, 2);
  }
  std::vector<float> values(count);
  copy_elements({type.dtype, {static_cast<int64_t>(count)}, bytes.data()}, 0,
                std::span<float>(values));
  return values;
}

uint32_t encoded(const SmallFloat& type, float value) {
  std::byte bytes[2] = {};
  convert_elements(std::span(&value, 1), type.dtype, bytes);
  uint16_t pattern;
  std::memcpy(&pattern, bytes, 2);
  return type.bits == 8 ? pattern & 0xFFu : pattern;
}

class EverySmallFloat : public testing::TestWithParam<SmallFloat> {};

TEST_P(EverySmallFloat, is_read_as_numpy_and_torch_read_it) {
  const SmallFloat& type = GetParam();
  std::vector<float> values = decoded(type, 0, size_t{1} << type.bits);
  int nans = 0;
  for (float& value : values) {
    if (!std::isnan(value)) continue;
    value = 0;
    nans++;
  }
  EXPECT_EQ(nans, type.nans);
  EXPECT_EQ(sha256_of(values), type.sha256);
}

TEST_P(EverySmallFloat, comes_back_bit_for_bit) {
  const SmallFloat& type = GetParam();
  const std::vector<float> values = decoded(type, 0, size_t{1} << type.bits);
  for (uint32_t pattern = 0; pattern < values.size(); pattern++) {
    const float value = values[pattern];
    const uint32_t back = encoded(type, value);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(decoded(type, back, 1)[0])) << pattern;
    } else if (std::isinf(value)) {
      EXPECT_EQ(back, type.overflow | (pattern & 1u << (type.bits - 1))) << pattern;
    } else {
      EXPECT_EQ(back, pattern);
    }
  }
}

// Between any two neighbours, of either sign: the nearer one, and in the middle the even one.
TEST_P(EverySmallFloat, is_rounded_to_nearest_even) {
  const SmallFloat& type = GetParam();
  const std::vector<float> values = decoded(type, 0, type.largest + size_t{1});
  const uint32_t sign = 1u << (type.bits - 1);
  for (uint32_t low = 0; low < type.largest; low++) {
    // Of float32's own smallest numbers no middle exists.
    const float middle = values[low] + (values[low + 1] - values[low]) / 2;
    if (middle == values[low] || middle == values[low + 1]) continue;
    const uint32_t even = low % 2 == 0 ? low : low + 1;
    ASSERT_EQ(encoded(type, middle), even) << middle;
    ASSERT_EQ(encoded(type, -middle), even | sign) << -middle;
    ASSERT_EQ(encoded(type, std::nextafter(middle, 0.0f)), low) << middle;
    ASSERT_EQ(encoded(type, std::nextafter(middle, kInfinity)), low + 1) << middle;
  }
}

TEST_P(EverySmallFloat, overflows_as_its_type_does) {
  const SmallFloat& type = GetParam();
  const uint32_t sign = 1u << (type.bits - 1);
  const float largest = decoded(type, type.largest, 1)[0];
  const float ulp = largest - decoded(type, type.largest - 1, 1)[0];
  EXPECT_EQ(encoded(type, std::nextafter(largest + ulp / 2, 0.0f)), type.largest);
  for (const float beyond : {largest + ulp, std::numeric_limits<float>::max(), kInfinity}) {
    EXPECT_EQ(encoded(type, beyond), type.overflow) << beyond;
    EXPECT_EQ(encoded(type, -beyond), type.overflow | sign) << beyond;
  }
}

INSTANTIATE_TEST_SUITE_P(
    DType, EverySmallFloat,
    testing::Values(SmallFloat{DType::kF16, 16, 2046,
                               "faa6d965574036872b0d39a42d1f8bee361d5be92b1e718155a69556a5abacdd",
                               0x7BFF, 0x7C00},
                    SmallFloat{DType::kBF16, 16, 254,
                               "2950e27364395060b01ae85b45dd15a2ab8891f6ee8b0af2b541dbda5524d0b4",
                               0x7F7F, 0x7F80},
                    SmallFloat{DType::kF8E4M3, 8, 2,
                               "0c5d81084420441d5c98db2c276b865fc29738d60fba9c32b55aa8214762b794",
                               0x7E, 0x7E},
                    SmallFloat{DType::kF8E5M2, 8, 6,
                               "f3e7031368f3245d56c8114ed15a46144bf609430c117e10fc3e0f5114d773b3",
                               0x7B, 0x7B}),
    [](const auto& type) { return std::string(dtype_name(type.param.dtype)); });

// Three blocks of ((37 i mod 101) - 50) / 7, and one of zeros.
std::vector<float> q8_values() {
  std::vector<float> values(128);
  for (int i = 0; i < 96; i++) {
    values[static_cast<size_t>(i)] = static_cast<float>(i * 37 % 101 - 50) / 7.0f;
  }
  return values;
}

TEST(Q8_0, is_quantised_and_read_as_the_gguf_package_does) {
  std::vector<std::byte> bytes(static_cast<size_t>(byte_count(DType::kQ8_0, {128})));
  convert_elements(q8_values(), DType::kQ8_0, bytes.data());
  EXPECT_EQ(sha256_hex(bytes), "62a6bbb851e1d3ea2acfedc3b77847dc6b3159dabefacec792f0f9d3c27c3268");
  std::vector<float> back(128);
  copy_elements({DType::kQ8_0, {128}, bytes.data()}, 0, std::span<float>(back));
  EXPECT_EQ(sha256_of(back), "14eeafb8d8ba49e96e871a57012f6e9d00af5e9133473e4c53cff7d128633a82");
}

TEST(Q8_0, is_read_from_the_middle_of_a_block) {
  std::vector<std::byte> bytes(static_cast<size_t>(byte_count(DType::kQ8_0, {128})));
  convert_elements(q8_values(), DType::kQ8_0, bytes.data());
  const TensorView view{DType::kQ8_0, {4, 32}, bytes.data()};
  std::vector<double> whole(128), part(50);
  copy_elements(view, 0, std::span<double>(whole));
  for (const int64_t first : {1, 31, 32, 45, 78}) {
    copy_elements(view, first, std::span<double>(part));
    EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + first)) << first;
  }
}

template <class T>
void expect_numbers(DType dtype, const std::vector<T>& values) {
  // One byte off: data in files need not be aligned.
  std::vector<std::byte> bytes = {std::byte{0}};
  for (const std::byte byte : std::as_bytes(std::span(values))) bytes.push_back(byte);
  std::vector<double> read(values.size() - 1);
  copy_elements({dtype, {static_cast<int64_t>(values.size())}, bytes.data() + 1}, 1,
                std::span<double>(read));
  for (size_t i = 0; i < read.size(); i++) {
    EXPECT_EQ(read[i], static_cast<double>(values[i + 1])) << dtype_name(dtype);
  }
}

template <class T>
std::vector<T> extremes() {
  return {0, 1, std::numeric_limits<T>::max(), std::numeric_limits<T>::min(), 42};
}

TEST(DType, reads_whole_numbers_and_floats_at_any_address) {
  expect_numbers(DType::kI64, extremes<int64_t>());
  expect_numbers(DType::kI32, extremes<int32_t>());
  expect_numbers(DType::kI16, extremes<int16_t>());
  expect_numbers(DType::kI8, extremes<int8_t>());
  expect_numbers(DType::kU64, extremes<uint64_t>());
  expect_numbers(DType::kU32, extremes<uint32_t>());
  expect_numbers(DType::kU16, extremes<uint16_t>());
  expect_numbers(DType::kU8, extremes<uint8_t>());
  expect_numbers(DType::kBool, std::vector<uint8_t>{1, 0, 1});
  expect_numbers(DType::kF32, std::vector<float>{0, 1.5f, -3e38f, 1e-45f});
  expect_numbers(DType::kF64, std::vector<double>{0, 1.0 / 3, -1e300, 5e-324});
}

TEST(DType, rounds_float64_once_to_float32) {
  const std::vector<double> values = {1.0 / 3, 1 + 0x1p-24, 1e300};
  std::vector<float> read(3);
  copy_elements({DType::kF64, {3}, reinterpret_cast<const std::byte*>(values.data())}, 0,
                std::span<float>(read));
  EXPECT_EQ(read, (std::vector<float>{1.0f / 3, 1.0f, kInfinity}));
}

TEST(DType, widens_float32_without_change) {
  const std::vector<float> values = {0.1f, -1e-45f, 3e38f};
  std::vector<double> wide(3);
  convert_elements(values, DType::kF64, reinterpret_cast<std::byte*>(wide.data()));
  EXPECT_EQ(wide, std::vector<double>(values.begin(), values.end()));
}

TEST(DType, stores_numbers_only_in_types_of_weights) {
  std::byte bytes[8];
  const float value = 1;
  try {
    convert_elements(std::span(&value, 1), DType::kI32, bytes);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
  }
}

TEST(DType, has_the_names_of_safetensors) {
  std::set<std::string> names;
  for (int i = 0; i <= static_cast<int>(DType::kBool); i++) {
    names.emplace(dtype_name(static_cast<DType>(i)));
  }
  EXPECT_EQ(names,
            (std::set<std::string>{"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "Q8_0", "I64",
                                   "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"}));
}

TEST(DType, knows_what_weights_are_made_of) {
  EXPECT_TRUE(is_weight_dtype(DType::kF64));
  EXPECT_TRUE(is_weight_dtype(DType::kQ8_0));
  EXPECT_FALSE(is_weight_dtype(DType::kI64));
  EXPECT_FALSE(is_weight_dtype(DType::kBool));
}

}  // namespace
}  // namespace calotype
