#include <gmock/gmock.h>

#include <cmath>

#include "data.h"

namespace calotype {
namespace {

// The pair that make_data.py's similarity() measures with scikit-image.
std::pair<Tensor, Tensor> pattern() {
  std::pair<Tensor, Tensor> images{Tensor({1, 24, 37, 3}), Tensor({1, 24, 37, 3})};
  for (int64_t i = 0; i < images.first.size(); i++) {
    const int64_t c = i % 3, x = i / 3 % 37, y = i / 3 / 37;
    const int64_t a = (x * 7 + y * 13 + c * 50) % 256;
    const int64_t b = std::clamp<int64_t>(a + (x * 5 + y * 3 + c) % 17 - 8, 0, 255);
    images.first.data()[i] = static_cast<float>(a) / 127.5f - 1;
    images.second.data()[i] = static_cast<float>(b) / 127.5f - 1;
  }
  return images;
}

TEST(Ssim, agrees_with_scikit_image) {
  const auto [a, b] = pattern();
  EXPECT_NEAR(ssim(a, b), 0.985434777927, 1e-9);
  EXPECT_NEAR(ssim(b, a), 0.985434777927, 1e-9);
}

TEST(Psnr, agrees_with_its_definition) {
  const auto [a, b] = pattern();
  EXPECT_NEAR(psnr(a, b), 34.408278599812, 1e-9);
}

TEST(Psnr, of_one_step_everywhere_is_48_decibel) {
  Tensor a({1, 4, 4, 3}), b({1, 4, 4, 3});
  std::fill(a.values().begin(), a.values().end(), 2 * 10.0f / 255 - 1);
  std::fill(b.values().begin(), b.values().end(), 2 * 11.0f / 255 - 1);
  EXPECT_NEAR(psnr(a, b), 20 * std::log10(255.0), 1e-9);
}

TEST(Metrics, of_equal_pictures_are_perfect) {
  const Tensor a = test::gradient(20, 20);
  EXPECT_EQ(psnr(a, a), INFINITY);
  EXPECT_NEAR(ssim(a, a), 1, 1e-12);
}

TEST(Metrics, see_only_what_8_bits_hold) {
  const Tensor a = read_image(test::data_path("base.npy"));
  Tensor b = a.clone();
  for (float& v : b.values())
    v += v > 0 ? 0.002f : -0.002f;  // a quarter of a step, or beyond the range
  EXPECT_EQ(psnr(a, b), INFINITY);
}

TEST(Ssim, falls_with_noise_and_takes_pictures_smaller_than_its_window) {
  for (const int64_t side : {1, 2, 5, 10, 11, 12}) {
    const Tensor a = test::gradient(side, side);
    Tensor b = a.clone();
    for (int64_t i = 0; i < b.size(); i++) b.data()[i] += i % 2 == 0 ? 0.3f : -0.3f;
    EXPECT_NEAR(ssim(a, a), 1, 1e-12);
    EXPECT_LT(ssim(a, b), 0.99) << side;
  }
}

TEST(Metrics, refuse_pictures_of_different_sizes) {
  const Tensor a = test::gradient(4, 4), b = test::gradient(4, 5);
  EXPECT_EQ(test::error_of([&] { psnr(a, b); }).code(), ErrorCode::kInvalidArgument);
  EXPECT_EQ(test::error_of([&] { ssim(a, b); }).code(), ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace calotype
