#include "latents/npy.h"

#include <gmock/gmock.h>

#include <cstring>
#include <string>
#include <string_view>

#include "calotype/error.h"
#include "core/cat.h"

namespace calotype {
namespace {

using testing::AllOf;
using testing::HasSubstr;

using Bytes = std::vector<std::byte>;

Bytes bytes_of(std::string_view text) {
  Bytes bytes(text.size());
  std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

// A file of version `major`.0 with this header and `data` bytes of zeros.
Bytes npy_of(const std::string& header, size_t data, int major = 1) {
  std::string text = "\x93NUMPY";
  text += static_cast<char>(major);
  text += '\0';
  for (int i = 0; i < (major == 1 ? 2 : 4); i++) {
    text += static_cast<char>(header.size() >> (8 * i) & 0xff);
  }
  return bytes_of(text + header + std::string(data, '\0'));
}

std::string header_of(const std::string& descr, const std::string& shape,
                      const std::string& order = "False") {
  return "{'descr': '" + descr + "', 'fortran_order': " + order + ", 'shape': " + shape + ", }\n";
}

Error refusal(const Bytes& bytes) {
  try {
    parse_npy(bytes, "x.npy");
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("x.npy"));
    return error;
  }
  return Error(ErrorCode::kInternal, "nothing was thrown");
}

TEST(Npy, reads_what_it_writes) {
  const std::vector<float> values = {0, 1.5f, -2, 65504, 1e-3f, -0.0f};
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kF16}) {
    for (const Shape& shape : {Shape{6}, Shape{2, 3}, Shape{1, 2, 3, 1}}) {
      const Bytes bytes = npy_bytes(values, shape, dtype);
      const TensorView view = parse_npy(bytes, "x.npy").view;
      EXPECT_EQ(view.dtype, dtype);
      EXPECT_EQ(view.shape, shape);
      std::vector<float> read(values.size());
      copy_elements(view, 0, std::span(read));
      for (size_t i = 0; i < values.size(); i++) EXPECT_NEAR(read[i], values[i], 1e-6);
    }
  }
}

// np.save(…, np.array([[1, 2, 3]], '<f4')) of NumPy 2.
TEST(Npy, writes_the_bytes_that_numpy_writes) {
  std::string text("\x93NUMPY\x01\0\x76\0", 10);
  text += "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3), }";
  text += std::string(127 - text.size(), ' ') + "\n";
  text += std::string("\0\0\x80\x3f\0\0\0\x40\0\0\x40\x40", 12);
  EXPECT_EQ(npy_bytes(std::vector<float>{1, 2, 3}, {1, 3}, DType::kF32), bytes_of(text));
}

TEST(Npy, reads_all_versions_key_orders_and_quotes) {
  for (const int major : {1, 2, 3}) {
    EXPECT_EQ(parse_npy(npy_of(header_of("<f4", "(2, 3)"), 24, major), "x").view.shape,
              (Shape{2, 3}));
  }
  const std::string other = "{\"shape\":(2,),\"descr\":\"<f2\",\"fortran_order\":False}   \n";
  EXPECT_EQ(parse_npy(npy_of(other, 4), "x").view.dtype, DType::kF16);
  EXPECT_EQ(parse_npy(npy_of(header_of("<f4", "()"), 4), "x").view.shape, Shape{});
  EXPECT_EQ(parse_npy(npy_of(header_of("|u1", "(0, 3)"), 0), "x").view.dtype, DType::kU8);
}

// Elements that count up in C order, stored as NumPy stores them in Fortran order.
TEST(Npy, reads_fortran_order_of_any_rank) {
  for (const Shape& shape : {Shape{}, Shape{3}, Shape{2, 3}, Shape{1, 4, 2, 3},
                             Shape{2, 1, 3, 2, 2}, Shape{0, 2}, Shape{3, 0}}) {
    const auto count = static_cast<size_t>(element_count(shape));
    std::string text = "(";
    for (const int64_t dim : shape) text += cat(dim, ", ");
    for (const auto& [descr, width] : {std::pair("|u1", size_t{1}), std::pair("<f2", size_t{2}),
                                       std::pair("<f4", size_t{4}), std::pair("<f8", size_t{8})}) {
      Bytes file = npy_of(header_of(descr, text + ")", "True"), count * width);
      std::byte* data = file.data() + (file.size() - count * width);
      for (size_t i = 0; i < count; i++) {
        size_t rest = i, place = 0, stride = count;
        for (size_t axis = shape.size(); axis-- > 0;) {
          const auto dim = static_cast<size_t>(shape[axis]);
          stride /= dim;
          place += rest % dim * stride;
          rest /= dim;
        }
        data[place * width] = static_cast<std::byte>(i);
      }
      const NpyArray array = parse_npy(file, "x");
      EXPECT_EQ(array.view.shape, shape);
      for (size_t i = 0; i < count; i++) {
        EXPECT_EQ(array.view.data[i * width], static_cast<std::byte>(i)) << shape_string(shape);
      }
    }
  }
}

TEST(Npy, refuses_big_endian_and_other_dtypes_by_name) {
  const Error big = refusal(npy_of(header_of(">f4", "(1,)"), 4));
  EXPECT_EQ(big.code(), ErrorCode::kUnsupported);
  EXPECT_THAT(big.what(), AllOf(HasSubstr("big-endian"), HasSubstr(">f4")));
  EXPECT_THAT(refusal(npy_of(header_of("<c8", "(1,)"), 8)).what(), HasSubstr("<c8"));
  EXPECT_THAT(refusal(npy_of(header_of("|O", "(1,)"), 8)).what(), HasSubstr("|O"));
  EXPECT_THAT(
      refusal(npy_of("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", 4)).what(),
      HasSubstr("structured"));
}

TEST(Npy, refuses_every_truncation_and_trailing_bytes) {
  const Bytes whole = npy_of(header_of("<f4", "(2, 2)"), 16);
  for (size_t size = 0; size < whole.size(); size++) {
    const Bytes cut(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(size));
    EXPECT_EQ(refusal(cut).code(), ErrorCode::kInvalidData) << size;
  }
  Bytes longer = whole;
  longer.push_back(std::byte{0});
  EXPECT_THAT(refusal(longer).what(), HasSubstr("1 bytes after the array"));
}

TEST(Npy, refuses_hostile_headers) {
  // Lengths beyond the file, and absurd ones.
  Bytes claims = npy_of(header_of("<f4", "(1,)"), 4, 2);
  claims[8] = claims[9] = std::byte{0xff};
  EXPECT_EQ(refusal(claims).code(), ErrorCode::kInvalidData);
  claims[10] = claims[11] = std::byte{0xff};
  EXPECT_THAT(refusal(claims).what(), HasSubstr("4294967295"));
  EXPECT_EQ(refusal(npy_of(header_of("<f4", "(1,)"), 4, 4)).code(), ErrorCode::kUnsupported);

  for (const std::string header :
       {"", "{", "{}", "[]", "{'descr': '<f4'}", "{'descr': '<f4', 'fortran_order': False}",
        "{'descr': '<f4, 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': Maybe, 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1 1)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1e3,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'more': 1}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} x",
        "{'descr': '<f\\x34', 'fortran_order': False, 'shape': (1,)}"}) {
    EXPECT_EQ(refusal(npy_of(header, 4)).code(), ErrorCode::kInvalidData) << header;
  }
}

TEST(Npy, refuses_shapes_that_overflow) {
  for (const char* shape :
       {"(4611686018427387904, 4)", "(9223372036854775807, 9223372036854775807)",
        "(4294967296, 4294967296, 4294967296)", "(9223372036854775807,)"}) {
    EXPECT_EQ(refusal(npy_of(header_of("<f8", shape), 8)).code(), ErrorCode::kInvalidData) << shape;
  }
  std::string many = "(";
  for (int i = 0; i < 40; i++) many += "1, ";
  EXPECT_THAT(refusal(npy_of(header_of("<f4", many + ")"), 4)).what(), HasSubstr("32 dimensions"));
}

TEST(Npy, cannot_hold_bfloat16) {
  try {
    npy_bytes(std::vector<float>{1}, {1}, DType::kBF16);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_THAT(error.what(), HasSubstr("BF16"));
  }
}

}  // namespace
}  // namespace calotype
