#include <gmock/gmock.h>

#include "data.h"
#include "support/random.h"

namespace calotype {
namespace {

using test::data_path;
using test::steps_between;

TEST(Resize, agrees_with_pillow) {
  const Tensor image = read_image(data_path("resize_in.npy"));
  for (const auto& [width, height] : {std::pair{5, 4}, {31, 20}, {13, 3}, {1, 1}, {40, 9}}) {
    const std::string name =
        "resize_" + std::to_string(width) + "x" + std::to_string(height) + ".npy";
    Tensor expected = read_image(data_path(name));
    for (float& v : expected.values()) v = std::clamp(v, -1.0f, 1.0f);  // Pillow's floats overshoot
    EXPECT_LE(steps_between(resize(image, height, width), expected), 1e-3) << name;
  }
}

TEST(Resize, keeps_what_has_the_size_already) {
  test::Random random(test::test_seed(1));
  const Tensor image = random.normal_tensor({2, 5, 7, 3});
  EXPECT_EQ(steps_between(resize(image, 5, 7), image), 0);
}

TEST(Resize, keeps_a_plain_colour) {
  Tensor image({1, 19, 23, 3});
  std::fill(image.values().begin(), image.values().end(), 0.375f);
  for (const auto& [height, width] : {std::pair{5, 5}, {64, 3}, {40, 40}}) {
    const Tensor resized = resize(image, height, width);
    for (const float v : resized.values()) EXPECT_NEAR(v, 0.375f, 1e-6);
  }
}

// Pillow rounds to 8 bits after each direction: up to a step and a half apart.
TEST(Resize, cuts_the_overshoot_beside_a_hard_edge_as_pillow_does) {
  const Tensor image = read_image(data_path("edge.png"));
  for (const std::string size : {"40x30", "50x5", "7x5"}) {
    const Tensor expected = read_image(data_path("edge_" + size + ".png"));
    const Tensor resized = resize(image, expected.dim(1), expected.dim(2));
    EXPECT_LE(steps_between(resized, expected), 1.5) << size;
    for (const float v : resized.values()) {
      EXPECT_GE(v, -1) << size;
      EXPECT_LE(v, 1) << size;
    }
  }
}

TEST(Resize, keeps_each_float_picture_of_a_batch_within_its_own_range) {
  Tensor image({2, 1, 8, 3});
  for (int64_t i = 0; i < image.size(); i++) {
    const int64_t x = i / 3 % 8;
    image.data()[i] = (x < 4 ? -1.0f : 1.0f) * (i < image.size() / 2 ? 3.0f : 0.5f);
  }
  const Tensor resized = resize(image, 1, 40);
  const auto [low, high] = std::minmax_element(resized.data(), resized.data() + 40 * 3);
  EXPECT_EQ(*low, -3);
  EXPECT_EQ(*high, 3);
  for (const float v : resized.values().subspan(40 * 3)) EXPECT_LE(std::abs(v), 1);
}

TEST(Resize, makes_grey_of_a_checkerboard) {
  Tensor image({1, 64, 64, 3});
  for (int64_t i = 0; i < image.size(); i++) {
    const int64_t pixel = i / 3;
    image.data()[i] = (pixel / 64 + pixel % 64) % 2 == 0 ? 1.0f : -1.0f;
  }
  const Tensor resized = resize(image, 9, 9);
  for (int64_t y = 1; y < 8; y++) {
    for (int64_t x = 1; x < 8; x++) EXPECT_NEAR(resized.data()[(y * 9 + x) * 3], 0, 0.02);
  }
}

TEST(Resize, treats_pictures_of_a_batch_and_channels_alike) {
  test::Random random(test::test_seed(2));
  const Tensor pair = random.normal_tensor({2, 12, 9, 4});
  const Tensor resized = resize(pair, 5, 14);
  for (int64_t b = 0; b < 2; b++) {
    const Tensor one({1, 12, 9, 4},
                     pair.values().subspan(static_cast<size_t>(b * 12 * 9 * 4), 12 * 9 * 4));
    const Tensor alone = resize(one, 5, 14);
    const Tensor in_batch(
        alone.shape(), resized.values().subspan(static_cast<size_t>(b * 5 * 14 * 4), 5 * 14 * 4));
    EXPECT_EQ(steps_between(alone, in_batch), 0);
  }
}

TEST(Resize, refuses_sizes_of_zero) {
  const Tensor image = test::gradient(4, 4);
  EXPECT_EQ(test::error_of([&] { resize(image, 0, 4); }).code(), ErrorCode::kInvalidArgument);
  EXPECT_EQ(test::error_of([&] { resize(image, 4, -1); }).code(), ErrorCode::kInvalidArgument);
  EXPECT_EQ(test::error_of([&] { resize(image, int64_t{1} << 40, int64_t{1} << 40); }).code(),
            ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace calotype
