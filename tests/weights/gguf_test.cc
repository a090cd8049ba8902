#include "weights/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/file.h"
#include "support/random.h"
#include "weights/checkpoints.h"

namespace calotype {
namespace {

using test::bytes_of;
using test::refusal;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Writes a GGUF file field by field, faults included.
class Gguf {
 public:
  explicit Gguf(uint64_t tensors, uint64_t pairs = 0, uint32_t version = 3) {
    text_ = "GGUF";
    u32(version).u64(tensors).u64(pairs);
  }
  Gguf& u32(uint64_t value) { return number(value, 4); }
  Gguf& u64(uint64_t value) { return number(value, 8); }
  Gguf& string(std::string_view value) {
    u64(value.size());
    text_ += value;
    return *this;
  }
  Gguf& tensor(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type,
               uint64_t offset) {
    string(name).u32(dims.size());
    for (const uint64_t dim : dims) u64(dim);
    return u32(type).u64(offset);
  }
  Gguf& data(size_t bytes) {
    text_.resize((text_.size() + 31) / 32 * 32 + bytes);
    return *this;
  }
  std::vector<std::byte> bytes() const { return bytes_of(text_); }

 private:
  Gguf& number(uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) text_ += static_cast<char>(value >> (8 * i) & 0xFF);
    return *this;
  }
  std::string text_;
};

std::string gguf_refusal(const Gguf& gguf, ErrorCode code = ErrorCode::kInvalidData) {
  const auto bytes = gguf.bytes();
  return refusal(code, [&] { parse_gguf(bytes, "x.gguf"); });
}

constexpr uint32_t kF32 = 0, kF16 = 1, kQ8 = 8, kQ4K = 12, kBF16 = 30;

TEST(Gguf, reads_every_weight_type_with_dimensions_reversed) {
  for (const uint32_t version : {2u, 3u}) {
    const auto bytes = Gguf(4, 1, version)
                           .string("calotype.config")
                           .u32(8)
                           .string("{}")
                           .tensor("f32", {3, 3, 2, 1}, kF32, 0)
                           .tensor("f16", {5}, kF16, 96)
                           .tensor("bf16", {2, 4}, kBF16, 128)
                           .tensor("q8", {64, 2}, kQ8, 160)
                           .data(160 + 160)
                           .bytes();
    const GgufFile file = parse_gguf(bytes, "x.gguf");
    EXPECT_THAT(file.tensors.at("f32").shape, ElementsAre(1, 2, 3, 3));
    EXPECT_EQ(file.tensors.at("f16").dtype, DType::kF16);
    EXPECT_EQ(file.tensors.at("bf16").dtype, DType::kBF16);
    EXPECT_THAT(file.tensors.at("bf16").shape, ElementsAre(4, 2));
    EXPECT_EQ(file.tensors.at("q8").dtype, DType::kQ8_0);
    EXPECT_THAT(file.tensors.at("q8").shape, ElementsAre(2, 64));
    EXPECT_EQ(file.strings.at("calotype.config"), "{}");
  }
}

TEST(Gguf, skips_values_of_every_type) {
  const auto bytes = Gguf(0, 5)
                         .string("u8")
                         .u32(0)
                         .u32(0x08'000000 & 0)  // one byte, then the key's length
                         .bytes();
  // A value of one byte followed by rubbish is a truncated file, not a crash.
  EXPECT_THROW(parse_gguf(bytes, "x.gguf"), Error);
  const auto good = Gguf(0, 4)
                        .string("a")
                        .u32(10)
                        .u64(7)
                        .string("b")
                        .u32(9)
                        .u32(5)
                        .u64(2)
                        .u32(1)
                        .u32(2)
                        .string("c")
                        .u32(9)
                        .u32(8)
                        .u64(2)
                        .string("x")
                        .string("yz")
                        .string("d")
                        .u32(9)
                        .u32(9)
                        .u64(1)
                        .u32(4)
                        .u64(1)
                        .u32(9)
                        .bytes();
  EXPECT_TRUE(parse_gguf(good, "x.gguf").tensors.empty());
}

TEST(Gguf, honours_the_alignment) {
  const auto bytes = Gguf(2, 1)
                         .string("general.alignment")
                         .u32(4)
                         .u32(64)
                         .tensor("a", {1}, kF32, 0)
                         .tensor("b", {1}, kF32, 64)
                         .data(32 + 96)
                         .bytes();
  EXPECT_EQ(parse_gguf(bytes, "x.gguf").tensors.size(), 2u);
  for (const uint32_t alignment : {0u, 3u, 48u, 0x80000000u}) {
    EXPECT_THAT(gguf_refusal(Gguf(0, 1).string("general.alignment").u32(4).u32(alignment)),
                HasSubstr("general.alignment is"));
  }
}

TEST(Gguf, restores_the_shape_of_flattened_convolutions) {
  const auto bytes = Gguf(1, 1)
                         .string("comfy.gguf.orig_shape.w")
                         .u32(9)
                         .u32(5)
                         .u64(4)
                         .u32(2)
                         .u32(32)
                         .u32(1)
                         .u32(1)
                         .tensor("w", {32, 2}, kQ8, 0)
                         .data(96)
                         .bytes();
  EXPECT_THAT(parse_gguf(bytes, "x.gguf").tensors.at("w").shape, ElementsAre(2, 32, 1, 1));
  EXPECT_THAT(gguf_refusal(Gguf(1, 1)
                               .string("comfy.gguf.orig_shape.w")
                               .u32(9)
                               .u32(5)
                               .u64(1)
                               .u32(63)
                               .tensor("w", {32, 2}, kQ8, 0)
                               .data(96)),
              HasSubstr("has the shape [2, 32]"));
  EXPECT_THAT(gguf_refusal(Gguf(1, 1)
                               .string("comfy.gguf.orig_shape.w")
                               .u32(9)
                               .u32(5)
                               .u64(2)
                               .u32(-2u)
                               .u32(-32u)
                               .tensor("w", {32, 2}, kQ8, 0)
                               .data(96)),
              HasSubstr("[-2, -32]"));
}

TEST(Gguf, keeps_tensors_of_other_types_apart) {
  const auto bytes =
      Gguf(2).tensor("a", {256, 2}, kQ4K, 0).tensor("b", {1}, 77, 288).data(320).bytes();
  const GgufFile file = parse_gguf(bytes, "x.gguf");
  EXPECT_EQ(file.unreadable.at("a"), "Q4_K");
  EXPECT_EQ(file.unreadable.at("b"), "GGML type 77");
}

TEST(Gguf, refuses_what_is_no_gguf) {
  const auto bytes = bytes_of("GGML and more");
  EXPECT_THAT(refusal(ErrorCode::kInvalidData, [&] { parse_gguf(bytes, "x.gguf"); }),
              HasSubstr("x.gguf: is not a GGUF file"));
  EXPECT_THAT(gguf_refusal(Gguf(0, 0, 1), ErrorCode::kUnsupported), HasSubstr("version 1"));
  EXPECT_THAT(gguf_refusal(Gguf(0, 0, 4), ErrorCode::kUnsupported), HasSubstr("version 4"));
  EXPECT_THAT(gguf_refusal(Gguf(0, 0, 0x03000000), ErrorCode::kUnsupported),
              HasSubstr("big-endian"));
}

TEST(Gguf, refuses_every_truncation_of_a_file) {
  const auto whole = Gguf(1, 2)
                         .string("a")
                         .u32(8)
                         .string("text")
                         .string("b")
                         .u32(9)
                         .u32(8)
                         .u64(1)
                         .string("x")
                         .tensor("t", {4, 2}, kF32, 0)
                         .data(32)
                         .bytes();
  ASSERT_EQ(parse_gguf(whole, "x.gguf").tensors.size(), 1u);
  for (size_t size = 0; size < whole.size(); size++) {
    const std::span part(whole.data(), size);
    EXPECT_THROW(parse_gguf(part, "x.gguf"), Error) << size;
  }
}

TEST(Gguf, refuses_counts_that_the_file_cannot_hold) {
  const uint64_t huge = uint64_t{1} << 62;
  EXPECT_THAT(gguf_refusal(Gguf(huge)), HasSubstr("truncated"));
  EXPECT_THAT(gguf_refusal(Gguf(0, huge)), HasSubstr("truncated"));
  EXPECT_THAT(gguf_refusal(Gguf(0, 1).u64(huge)), HasSubstr("truncated"));
  EXPECT_THAT(gguf_refusal(Gguf(0, 1).u64(UINT64_MAX)), HasSubstr("truncated"));
  EXPECT_THAT(gguf_refusal(Gguf(0, 1).string("a").u32(9).u32(10).u64(huge)),
              HasSubstr("truncated"));
  EXPECT_THAT(gguf_refusal(Gguf(0, 1).string("a").u32(9).u32(8).u64(huge)), HasSubstr("truncated"));
}

TEST(Gguf, refuses_arrays_nested_without_end) {
  Gguf gguf(0, 1);
  gguf.string("a").u32(9);
  for (int i = 0; i < 10'000; i++) gguf.u32(9).u64(1);
  EXPECT_THAT(gguf_refusal(gguf), HasSubstr("nested deeper than 8"));
}

TEST(Gguf, refuses_types_that_do_not_exist) {
  EXPECT_THAT(gguf_refusal(Gguf(0, 1).string("a").u32(13)), HasSubstr("the type 13"));
  EXPECT_THAT(gguf_refusal(Gguf(0, 1).string("a").u32(9).u32(99).u64(1).u64(0)),
              HasSubstr("the type 99"));
}

TEST(Gguf, refuses_duplicate_keys_and_tensors) {
  EXPECT_THAT(gguf_refusal(Gguf(0, 2).string("a").u32(4).u32(1).string("a").u32(4).u32(1)),
              HasSubstr("the key \"a\" twice"));
  EXPECT_THAT(gguf_refusal(Gguf(2).tensor("t", {8}, kF32, 0).tensor("t", {8}, kF32, 32).data(64)),
              HasSubstr("the tensor \"t\" twice"));
}

TEST(Gguf, refuses_shapes_that_cannot_be) {
  const uint64_t big = uint64_t{1} << 32;
  EXPECT_THAT(gguf_refusal(Gguf(1).tensor("t", {big, big}, kF32, 0).data(32)),
              HasSubstr("\"t\" cannot be"));
  EXPECT_THAT(gguf_refusal(Gguf(1).tensor("t", {uint64_t{1} << 61}, kF32, 0).data(32)),
              HasSubstr("more than 2^63 bytes"));
  EXPECT_THAT(gguf_refusal(Gguf(1).tensor("t", {UINT64_MAX}, kF32, 0).data(32)),
              HasSubstr("a dimension of 18446744073709551615"));
  EXPECT_THAT(gguf_refusal(Gguf(1).tensor("t", {1, 1, 1, 1, 1, 1, 1, 1, 1}, kF32, 0).data(32)),
              HasSubstr("9 dimensions"));
  EXPECT_THAT(gguf_refusal(Gguf(1).tensor("t", {3, 32}, kQ8, 0).data(128)),
              HasSubstr("rows must be multiples of 32"));
}

TEST(Gguf, refuses_offsets_past_the_end_unaligned_overlapping_or_with_holes) {
  EXPECT_THAT(gguf_refusal(Gguf(1).tensor("t", {16}, kF32, 0).data(32)),
              HasSubstr("the file is truncated"));
  EXPECT_THAT(gguf_refusal(Gguf(1).tensor("t", {0}, kF32, uint64_t{1} << 63).data(32)),
              HasSubstr("hole"));
  EXPECT_THAT(gguf_refusal(Gguf(1).tensor("t", {1}, kF32, 4).data(32)),
              HasSubstr("no multiple of the alignment"));
  EXPECT_THAT(gguf_refusal(Gguf(2).tensor("a", {16}, kF32, 0).tensor("b", {8}, kF32, 32).data(96)),
              HasSubstr("\"a\" and \"b\" overlap"));
  EXPECT_THAT(gguf_refusal(Gguf(2).tensor("a", {8}, kF32, 0).tensor("b", {8}, kF32, 64).data(96)),
              HasSubstr("before the tensor \"b\" is a hole of 32 bytes"));
  EXPECT_THAT(gguf_refusal(Gguf(1).tensor("a", {8}, kF32, 0).data(96)),
              HasSubstr("after the last tensor are 64 bytes"));
}

TEST(Gguf, survives_random_damage) {
  const uint64_t seed = test::test_seed(2);
  SCOPED_TRACE(seed);
  test::Random random(seed);
  const auto whole = Gguf(2, 2)
                         .string("a")
                         .u32(8)
                         .string("text")
                         .string("b")
                         .u32(9)
                         .u32(8)
                         .u64(1)
                         .string("x")
                         .tensor("t", {4, 2}, kF32, 0)
                         .tensor("q", {32}, kQ8, 32)
                         .data(32 + 64)
                         .bytes();
  ASSERT_EQ(parse_gguf(whole, "x").tensors.size(), 2u);
  for (int i = 0; i < 20'000; i++) {
    auto bytes = whole;
    for (int64_t n = random.integer(1, 4); n > 0; n--) {
      bytes[static_cast<size_t>(random.integer(0, static_cast<int64_t>(bytes.size()) - 1))] =
          static_cast<std::byte>(random.integer(0, 255));
    }
    try {
      for (const auto& [name, view] : parse_gguf(bytes, "x").tensors) {
        ASSERT_GE(view.data, bytes.data());
        ASSERT_LE(view.data + byte_count(view.dtype, view.shape), bytes.data() + bytes.size());
      }
    } catch (const Error&) {  // refused: what matters is that nothing else happens
    }
  }
}

TEST(Gguf, writes_what_it_reads) {
  const test::TemporaryFolder folder;
  const std::vector<std::byte> data = bytes_of(std::string(34 * 9 * 2, 'x'));
  write_gguf(folder.path("x.gguf"), {{"calotype.config", "{}"}},
             {SafetensorsEntry::of("f32", {DType::kF32, {2, 3, 1, 1}, data.data()}),
              SafetensorsEntry::of("bf16", {DType::kBF16, {3}, data.data()}),
              SafetensorsEntry::of("q8", {DType::kQ8_0, {2, 32, 3, 3}, data.data()})});
  const auto mapped = MappedFile::open(folder.path("x.gguf"));
  const GgufFile file = parse_gguf(mapped->bytes(), "x.gguf");
  EXPECT_THAT(file.tensors.at("f32").shape, ElementsAre(2, 3, 1, 1));
  EXPECT_THAT(file.tensors.at("q8").shape, ElementsAre(2, 32, 3, 3));
  EXPECT_EQ(bytes_of(file.tensors.at("q8")), std::string(34 * 9 * 2, 'x'));
  EXPECT_EQ(bytes_of(file.tensors.at("bf16")), "xxxxxx");
  EXPECT_EQ(file.strings.at("calotype.config"), "{}");
}

}  // namespace
}  // namespace calotype
