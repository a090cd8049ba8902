#include <gmock/gmock.h>

#include <cmath>

#include "data.h"

namespace calotype {
namespace {

// The first pixel of `canvas` where a picture whose first pixel is `value` could begin, right of
// `from`.
int64_t count_of(const Tensor& canvas, float value) {
  return std::count(canvas.values().begin(), canvas.values().end(), value);
}

TEST(Comparison, shows_original_result_and_difference_side_by_side) {
  Tensor a({1, 40, 200, 3}), b({1, 40, 200, 3});
  std::fill(a.values().begin(), a.values().end(), 0.25f);
  std::fill(b.values().begin(), b.values().end(), 0.375f);
  const Tensor canvas = comparison(a, b, 4);
  EXPECT_GE(canvas.dim(2), 3 * 200);
  EXPECT_GT(canvas.dim(1), 40);
  EXPECT_EQ(count_of(canvas, 0.25f), a.size());
  EXPECT_EQ(count_of(canvas, 0.375f), a.size());
  EXPECT_EQ(count_of(canvas, 4 * 0.125f), a.size());
}

TEST(Comparison, is_grey_where_nothing_differs_and_clamped_where_much_does) {
  Tensor a({1, 30, 200, 3}), b({1, 30, 200, 3});
  std::fill(a.values().begin(), a.values().end(), 0.25f);
  std::fill(b.values().begin(), b.values().end(), 0.25f);
  EXPECT_EQ(count_of(comparison(a, b, 100), 0.0f), a.size());
  std::fill(b.values().begin(), b.values().end(), 0.75f);
  EXPECT_EQ(count_of(comparison(a, b, 100), 1.0f), a.size());
}

TEST(Comparison, has_captions_that_say_more_with_a_prefix) {
  const Tensor a = test::gradient(64, 300);
  const auto ink = [](const Tensor& canvas) { return count_of(canvas, -0.85f); };
  const int64_t plain = ink(comparison(a, a, 8));
  EXPECT_GT(plain, 0);
  EXPECT_GT(ink(comparison(a, a, 8, "astronaut.png")), plain);
}

TEST(Comparison, takes_one_pixel_and_long_captions) {
  const Tensor a = test::gradient(1, 1);
  const Tensor canvas = comparison(a, a, 8, std::string(500, 'x') + " \xc3\xa9 caption");
  EXPECT_GT(canvas.dim(1), 1);
  EXPECT_LT(canvas.dim(2), 1000);
}

TEST(Comparison, refuses_pictures_of_different_sizes) {
  const Tensor a = test::gradient(4, 4), b = test::gradient(5, 4);
  EXPECT_EQ(test::error_of([&] { comparison(a, b, 8); }).code(), ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace calotype
