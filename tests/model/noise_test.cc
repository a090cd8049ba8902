#include "model/noise.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "core/sha256.h"

namespace calotype {
namespace {

using testing::ElementsAre;

constexpr uint64_t kMost = std::numeric_limits<uint64_t>::max();

// The known answers of philox4x32-10 in the Random123 library (kat_vectors).
TEST(Philox, gives_the_known_answers) {
  EXPECT_THAT(random_bits(0, 0, 0), ElementsAre(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
  EXPECT_THAT(random_bits(kMost, kMost, kMost),
              ElementsAre(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd));
  EXPECT_THAT(random_bits(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88),
              ElementsAre(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1));
}

// sqrt(2) erfinv(2 p - 1) of the same bits by mpmath, 40 digits.
TEST(Noise, is_the_inverse_of_the_normal_distribution) {
  const struct {
    uint64_t seed, stream, index;
    double value;
  } known[] = {
      {0, 0, 0, -0.25581597020351543696},
      {0, 0, 1, 1.9148032727702818571},
      {1, 0, 0, 1.2279076057444944553},
      {42, 0, 0, 0.28704190043009467726},
      {42, 1, 0, -2.3241456433641050491},
      {42, 0, uint64_t{1} << 32, -0.63952269326386651544},
      {kMost, kMost, kMost, -0.66763170598482962692},
      {42, 0, 12936, -4.3340694084243164579},  // the least of the first 200,000
      {42, 0, 195097, 4.5543515999429258498},  // the greatest
  };
  for (const auto& k : known) {
    EXPECT_NEAR(normal_noise(k.seed, k.stream, k.index), k.value, 1e-15 * std::abs(k.value) + 1e-16)
        << k.seed << " " << k.stream << " " << k.index;
  }
}

// Latents sampled on one machine are those of every other: all 64 bits.
TEST(Noise, is_the_same_on_every_machine_to_the_last_bit) {
  std::vector<double> values(100'000);
  for (size_t i = 0; i < values.size(); i++) values[i] = normal_noise(7, 3, i);
  EXPECT_EQ(sha256_hex(std::as_bytes(std::span(values))),
            "f27e87678f05ac3ad0b86cd8f1beb54e1ea760943efa3b8122eeaf3af7fee4a0");
}

TEST(Noise, is_normally_distributed) {
  constexpr int kCount = 1'000'000;
  double sum = 0, square = 0, cube = 0, fourth = 0;
  int inside = 0, far = 0;
  for (int i = 0; i < kCount; i++) {
    const double v = normal_noise(123, 0, static_cast<uint64_t>(i));
    sum += v;
    square += v * v;
    cube += v * v * v;
    fourth += v * v * v * v;
    inside += std::abs(v) < 1 ? 1 : 0;
    far += std::abs(v) > 3 ? 1 : 0;
  }
  // Five standard deviations of each estimate.
  EXPECT_NEAR(sum / kCount, 0, 5 * std::sqrt(1.0 / kCount));
  EXPECT_NEAR(square / kCount, 1, 5 * std::sqrt(2.0 / kCount));
  EXPECT_NEAR(cube / kCount, 0, 5 * std::sqrt(15.0 / kCount));
  EXPECT_NEAR(fourth / kCount, 3, 5 * std::sqrt(96.0 / kCount));
  EXPECT_NEAR(inside / 1e6, 0.6826894921, 5 * std::sqrt(0.6827 * 0.3173 / kCount));
  EXPECT_NEAR(far / 1e6, 0.0026997961, 5 * std::sqrt(0.0027 / kCount));
}

TEST(Noise, has_streams_that_know_nothing_of_each_other) {
  constexpr int kCount = 100'000;
  double streams = 0, neighbours = 0, seeds = 0;
  for (int i = 0; i < kCount; i++) {
    const auto index = static_cast<uint64_t>(i);
    const double v = normal_noise(5, 0, index);
    streams += v * normal_noise(5, 1, index);
    neighbours += v * normal_noise(5, 0, index + 1);
    seeds += v * normal_noise(6, 0, index);
  }
  const double bound = 5 / std::sqrt(kCount);
  EXPECT_NEAR(streams / kCount, 0, bound);
  EXPECT_NEAR(neighbours / kCount, 0, bound);
  EXPECT_NEAR(seeds / kCount, 0, bound);
}

}  // namespace
}  // namespace calotype
