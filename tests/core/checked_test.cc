#include "core/checked.h"

#include <gtest/gtest.h>

#include <limits>

#include "support/errors.h"

namespace calotype {
namespace {

using test::sentence_of;

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();

TEST(Checked, multiplies_and_adds_what_fits) {
  EXPECT_EQ(checked_mul(int64_t{1} << 31, int64_t{1} << 31), int64_t{1} << 62);
  EXPECT_EQ(checked_mul(kMax, 1), kMax);
  EXPECT_EQ(checked_mul(kMax, 0), 0);
  EXPECT_EQ(checked_add(kMax - 1, 1), kMax);
}

TEST(Checked, refuses_what_wraps) {
  sentence_of([] { checked_mul(int64_t{1} << 32, int64_t{1} << 31); }, ErrorCode::kInvalidArgument);
  sentence_of([] { checked_mul(kMax, 2); }, ErrorCode::kInvalidArgument);
  sentence_of([] { checked_add(kMax, 1); }, ErrorCode::kInvalidArgument);
}

TEST(Cat, joins_the_text_of_its_arguments) {
  EXPECT_EQ(cat("tensor ", std::string("x"), " has ", 3, " of ", 2.5), "tensor x has 3 of 2.5");
}

TEST(Fail, throws_the_code_and_the_sentence) {
  try {
    fail(ErrorCode::kIo, "disk ", 1, " is full");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kIo);
    EXPECT_STREQ(error.what(), "disk 1 is full");
  }
}

}  // namespace
}  // namespace calotype
