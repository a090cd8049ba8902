#include "weights/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "weights/checkpoints.h"

namespace calotype {
namespace {

using test::refusal;
using ::testing::HasSubstr;

std::string parse_refusal(std::string_view text) {
  return refusal(ErrorCode::kInvalidData, [&] { parse_json(text, "x.json"); });
}

TEST(Json, reads_nested_values) {
  const Json json = parse_json(R"({"a": [1, {"b": null}], "c": "d"})", "x.json");
  EXPECT_EQ(json["a"][0], 1);
  EXPECT_EQ(json["c"], "d");
}

TEST(Json, refuses_what_is_not_json) {
  for (const char* text : {"", "{", "{\"a\": }", "[1, 2", "nul", "{} {}", "{'a': 1}"}) {
    EXPECT_THAT(parse_refusal(text), HasSubstr("x.json: is not JSON")) << text;
  }
}

TEST(Json, refuses_bytes_that_are_not_utf8) {
  EXPECT_THAT(parse_refusal("{\"a\xff\": 1}"), HasSubstr("x.json: is not JSON"));
}

TEST(Json, refuses_duplicate_keys) {
  EXPECT_THAT(parse_refusal(R"({"a": 1, "b": 2, "a": 3})"), HasSubstr("the key \"a\" twice"));
  EXPECT_THAT(parse_refusal(R"({"a": {"b": 1, "b": 1}})"), HasSubstr("the key \"b\" twice"));
}

TEST(Json, allows_the_same_key_in_different_objects) {
  EXPECT_EQ(parse_json(R"([{"a": 1}, {"a": {"a": 2}}])", "x.json")[1]["a"]["a"], 2);
}

TEST(Json, refuses_nesting_beyond_the_limit) {
  const std::string deep = std::string(16, '[') + std::string(16, ']');
  EXPECT_NO_THROW(parse_json(deep, "x.json", 16));
  EXPECT_THAT(parse_refusal("[" + deep + "]"), HasSubstr("nested deeper than the 16 levels"));
}

TEST(Json, refuses_a_million_levels_without_a_crash) {
  EXPECT_THAT(parse_refusal(std::string(1'000'000, '[')), HasSubstr("nested deeper"));
  std::string objects;
  for (int i = 0; i < 100'000; i++) objects += "{\"a\":";
  EXPECT_THAT(parse_refusal(objects), HasSubstr("nested deeper"));
}

TEST(Json, integers_are_whole_and_fit) {
  EXPECT_EQ(json_integer(Json(INT64_MAX), "the field x"), INT64_MAX);
  EXPECT_EQ(json_integer(Json(-5), "the field x"), -5);
  for (const char* text : {"1.5", "1e3", "\"1\"", "true", "null", "9223372036854775808",
                           "100000000000000000000000000"}) {
    const Json json = parse_json(text, "x.json");
    EXPECT_THAT(refusal(ErrorCode::kInvalidData, [&] { json_integer(json, "the field x"); }),
                HasSubstr("the field x should be a whole number"))
        << text;
  }
}

TEST(Json, numbers_are_finite) {
  EXPECT_EQ(json_number(Json(3), "the field x"), 3.0);
  EXPECT_THAT(refusal(ErrorCode::kInvalidData, [] { json_number(Json("3"), "the field x"); }),
              HasSubstr("the field x should be a number, not \"3\""));
  EXPECT_THAT(parse_refusal("1e999"), HasSubstr("x.json"));
}

}  // namespace
}  // namespace calotype
