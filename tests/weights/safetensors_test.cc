#include "weights/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "calotype/error.h"
#include "support/random.h"
#include "weights/checkpoints.h"

namespace calotype {
namespace {

using test::bytes_of;
using test::refusal;
using test::safetensors_of;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const char* kTwo =
    R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F16","shape":[1,3],"data_offsets":[8,14]}})";

std::string header_refusal(const std::string& header, size_t data) {
  const auto bytes = safetensors_of(header, data);
  return refusal(ErrorCode::kInvalidData, [&] { parse_safetensors(bytes, "x.safetensors"); });
}

std::string entry(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"a":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets +
         "}}";
}

TEST(Safetensors, reads_tensors_and_metadata) {
  const auto bytes = safetensors_of(
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[2,1],"data_offsets":[0,4]}})",
      4);
  const SafetensorsFile file = parse_safetensors(bytes, "x.safetensors");
  ASSERT_EQ(file.tensors.size(), 1u);
  EXPECT_EQ(file.tensors.at("a").dtype, DType::kBF16);
  EXPECT_THAT(file.tensors.at("a").shape, ElementsAre(2, 1));
  EXPECT_EQ(file.tensors.at("a").data, bytes.data() + bytes.size() - 4);
  EXPECT_EQ(file.metadata.at("format"), "pt");
}

TEST(Safetensors, reads_scalars_and_empty_tensors) {
  const auto bytes = safetensors_of(
      R"({"s":{"dtype":"I64","shape":[],"data_offsets":[0,8]},"e":{"dtype":"F32","shape":[0],"data_offsets":[8,8]}})",
      8);
  const SafetensorsFile file = parse_safetensors(bytes, "x.safetensors");
  EXPECT_EQ(file.tensors.at("s").size(), 1);
  EXPECT_EQ(file.tensors.at("e").size(), 0);
}

TEST(Safetensors, refuses_files_shorter_than_the_length) {
  for (const size_t size : {0u, 1u, 7u}) {
    const std::vector<std::byte> bytes(size);
    EXPECT_THAT(refusal(ErrorCode::kInvalidData, [&] { parse_safetensors(bytes, "x"); }),
                HasSubstr("fewer than the 8"));
  }
}

TEST(Safetensors, refuses_headers_larger_than_the_file) {
  auto bytes = safetensors_of(kTwo, 14);
  const uint64_t length = bytes.size();
  std::memcpy(bytes.data(), &length, 8);
  EXPECT_THAT(refusal(ErrorCode::kInvalidData, [&] { parse_safetensors(bytes, "x"); }),
              HasSubstr("truncated"));
}

TEST(Safetensors, refuses_headers_larger_than_100_megabytes) {
  for (const uint64_t length : {uint64_t{100'000'001}, uint64_t{1} << 40, UINT64_MAX}) {
    auto bytes = safetensors_of(kTwo, 14);
    std::memcpy(bytes.data(), &length, 8);
    EXPECT_THAT(refusal(ErrorCode::kInvalidData, [&] { parse_safetensors(bytes, "x"); }),
                HasSubstr("more than the 100000000"));
  }
}

TEST(Safetensors, refuses_headers_that_are_no_json_object) {
  EXPECT_THAT(header_refusal("[]", 0), HasSubstr("does not begin with \"{\""));
  EXPECT_THAT(header_refusal("", 0), HasSubstr("does not begin with \"{\""));
  EXPECT_THAT(header_refusal("{\"a\":", 0), HasSubstr("is not JSON"));
  EXPECT_THAT(header_refusal(R"({"a": 3})", 0), HasSubstr("described by an object"));
  EXPECT_THAT(header_refusal(R"({"a": [[[[[[]]]]]]})", 0), HasSubstr("nested deeper"));
}

TEST(Safetensors, refuses_every_truncation_of_a_file) {
  const auto whole = safetensors_of(kTwo, 14);
  ASSERT_EQ(parse_safetensors(whole, "x").tensors.size(), 2u);
  for (size_t size = 0; size < whole.size(); size++) {
    const std::span part(whole.data(), size);
    EXPECT_THROW(parse_safetensors(part, "x"), Error) << size;
  }
}

TEST(Safetensors, refuses_duplicate_tensors) {
  const std::string one = R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  EXPECT_THAT(header_refusal("{" + one + "," + one + "}", 1), HasSubstr("the key \"a\" twice"));
}

TEST(Safetensors, refuses_missing_fields_by_name) {
  EXPECT_THAT(header_refusal(R"({"a":{"shape":[1],"data_offsets":[0,1]}})", 1),
              HasSubstr("the tensor \"a\" has no \"dtype\""));
  EXPECT_THAT(header_refusal(R"({"a":{"dtype":"U8","data_offsets":[0,1]}})", 1),
              HasSubstr("has no \"shape\""));
  EXPECT_THAT(header_refusal(R"({"a":{"dtype":"U8","shape":[1]}})", 1),
              HasSubstr("has no \"data_offsets\""));
}

TEST(Safetensors, refuses_unknown_and_mistyped_dtypes) {
  EXPECT_THAT(header_refusal(entry("\"F31\"", "[1]", "[0,4]"), 4), HasSubstr("\"F31\""));
  EXPECT_THAT(header_refusal(entry("\"Q8_0\"", "[32]", "[0,34]"), 34), HasSubstr("\"Q8_0\""));
  EXPECT_THAT(header_refusal(entry("5", "[1]", "[0,4]"), 4), HasSubstr("dtype should be a string"));
}

TEST(Safetensors, refuses_shapes_that_cannot_be) {
  EXPECT_THAT(header_refusal(entry("\"U8\"", "[-1]", "[0,1]"), 1), HasSubstr("negative"));
  EXPECT_THAT(header_refusal(entry("\"U8\"", "[1.5]", "[0,1]"), 1), HasSubstr("whole number"));
  EXPECT_THAT(header_refusal(entry("\"U8\"", "\"1\"", "[0,1]"), 1), HasSubstr("an array"));
  EXPECT_THAT(header_refusal(entry("\"U8\"", "[18446744073709551615]", "[0,1]"), 1),
              HasSubstr("whole number"));
  EXPECT_THAT(header_refusal(entry("\"U8\"", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", "[0,1]"), 1),
              HasSubstr("17 dimensions"));
}

TEST(Safetensors, refuses_shapes_whose_product_overflows) {
  EXPECT_THAT(header_refusal(entry("\"F32\"", "[4294967296,4294967296]", "[0,0]"), 0),
              HasSubstr("\"a\" cannot be"));
  EXPECT_THAT(header_refusal(entry("\"F64\"", "[2305843009213693952]", "[0,0]"), 0),
              HasSubstr("\"a\" cannot be"));
}

TEST(Safetensors, refuses_bytes_that_do_not_fit_the_shape) {
  EXPECT_THAT(header_refusal(entry("\"F32\"", "[2]", "[0,4]"), 4),
              HasSubstr("takes 8 bytes, but its data_offsets hold 4"));
}

TEST(Safetensors, refuses_offsets_that_are_reversed_or_past_the_end) {
  EXPECT_THAT(header_refusal(entry("\"U8\"", "[1]", "[2,1]"), 2), HasSubstr("reversed"));
  EXPECT_THAT(header_refusal(entry("\"U8\"", "[3]", "[0,3]"), 2), HasSubstr("truncated"));
  EXPECT_THAT(header_refusal(entry("\"U8\"", "[1]", "[0]"), 2), HasSubstr("two whole numbers"));
  EXPECT_THAT(header_refusal(entry("\"U8\"", "[1]", "[-1,0]"), 2), HasSubstr("two whole numbers"));
  EXPECT_THAT(
      header_refusal(entry("\"U8\"", "[1]", "[18446744073709551615,18446744073709551616]"), 2),
      HasSubstr("two whole numbers"));
}

TEST(Safetensors, refuses_overlapping_tensors) {
  const std::string sentence = header_refusal(
      R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}})",
      7);
  EXPECT_THAT(sentence, HasSubstr("\"a\" and \"b\" overlap"));
}

TEST(Safetensors, refuses_holes_and_trailing_bytes) {
  EXPECT_THAT(
      header_refusal(
          R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
          3),
      HasSubstr("before the tensor \"b\" is a hole of 1 bytes"));
  EXPECT_THAT(header_refusal(entry("\"U8\"", "[1]", "[0,1]"), 6), HasSubstr("are 5 bytes"));
  EXPECT_THAT(header_refusal("{}", 1), HasSubstr("are 1 bytes"));
}

TEST(Safetensors, refuses_metadata_that_is_no_map_of_strings) {
  EXPECT_THAT(header_refusal(R"({"__metadata__": []})", 0), HasSubstr("__metadata__"));
  EXPECT_THAT(header_refusal(R"({"__metadata__": {"x": 1}})", 0), HasSubstr("\"x\""));
}

TEST(Safetensors, keeps_tensors_of_other_dtypes_apart) {
  const auto bytes = safetensors_of(entry("\"F8_E8M0\"", "[4]", "[0,4]"), 4);
  const SafetensorsFile file = parse_safetensors(bytes, "x");
  EXPECT_TRUE(file.tensors.empty());
  EXPECT_EQ(file.unreadable.at("a"), "F8_E8M0");
}

TEST(Safetensors, survives_random_damage) {
  const uint64_t seed = test::test_seed(1);
  SCOPED_TRACE(seed);
  test::Random random(seed);
  const auto whole = safetensors_of(kTwo, 14);
  for (int i = 0; i < 20'000; i++) {
    auto bytes = whole;
    for (int64_t n = random.integer(1, 4); n > 0; n--) {
      bytes[static_cast<size_t>(random.integer(0, static_cast<int64_t>(bytes.size()) - 1))] =
          static_cast<std::byte>(random.integer(0, 255));
    }
    try {
      for (const auto& [name, view] : parse_safetensors(bytes, "x").tensors) {
        ASSERT_GE(view.data, bytes.data());
        ASSERT_LE(view.data + byte_count(view.dtype, view.shape), bytes.data() + bytes.size());
      }
    } catch (const Error& error) {
      ASSERT_EQ(static_cast<int>(error.code()), static_cast<int>(ErrorCode::kInvalidData));
    }
  }
}

TEST(Safetensors, writes_what_it_reads) {
  const std::vector<std::byte> a = bytes_of("12345678"), b = bytes_of("abcdef");
  const auto bytes =
      safetensors_bytes({{"key", "value \"quoted\" é"}},
                        {SafetensorsEntry::of("b", {DType::kF16, {3}, b.data()}),
                         SafetensorsEntry::of("a", {DType::kF32, {2, 1}, a.data()}),
                         SafetensorsEntry::of("empty", {DType::kF32, {0}, a.data()})});
  const SafetensorsFile file = parse_safetensors(bytes, "x");
  EXPECT_EQ(file.metadata.at("key"), "value \"quoted\" é");
  EXPECT_EQ(bytes_of(file.tensors.at("a")), "12345678");
  EXPECT_EQ(bytes_of(file.tensors.at("b")), "abcdef");
  EXPECT_EQ(file.tensors.at("empty").size(), 0);
}

TEST(Safetensors, aligns_every_tensor_to_its_elements) {
  const std::vector<std::byte> data(24);
  const auto bytes =
      safetensors_bytes({}, {SafetensorsEntry::of("a", {DType::kU8, {3}, data.data()}),
                             SafetensorsEntry::of("b", {DType::kF16, {1}, data.data()}),
                             SafetensorsEntry::of("c", {DType::kF64, {3}, data.data()}),
                             SafetensorsEntry::of("d", {DType::kF32, {1}, data.data()})});
  for (const auto& [name, view] : parse_safetensors(bytes, "x").tensors) {
    EXPECT_EQ((view.data - bytes.data()) % byte_count(view.dtype, {1}), 0) << name;
  }
}

TEST(Safetensors, leaves_no_file_behind_when_writing_fails) {
  const test::TemporaryFolder folder;
  SafetensorsEntry bad{"a", DType::kF32, {4}, [](const ByteSink& sink) { sink(bytes_of("123")); }};
  refusal(ErrorCode::kInternal,
          [&] { write_safetensors(folder.path("x.safetensors"), {}, {bad}); });
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(Safetensors, refuses_to_write_into_a_folder_that_is_not_there) {
  const test::TemporaryFolder folder;
  const std::string path = folder.path("no/x.safetensors");
  EXPECT_THAT(refusal(ErrorCode::kNotFound, [&] { write_safetensors(path, {}, {}); }),
              HasSubstr(path));
}

}  // namespace
}  // namespace calotype
