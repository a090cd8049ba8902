#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "calotype/autoencoder_kl.h"
#include "model/noise.h"
#include "support/random.h"
#include "support/random_vae.h"

namespace calotype::test {
namespace {

Posterior random_posterior(const Shape& shape) {
  Random random(1);
  return {random.normal_tensor(shape), random.normal_tensor(shape, 2)};
}

TEST(Posterior, has_the_mean_as_its_mode) {
  const Posterior posterior = random_posterior({1, 2, 3, 4});
  EXPECT_TRUE(std::ranges::equal(posterior.mode().values(), posterior.mean.values()));
}

TEST(Posterior, samples_noise_by_seed_picture_and_place_in_nchw) {
  const Posterior posterior = random_posterior({2, 3, 4, 5});
  const Tensor z = posterior.sample(42, 7);
  for (int64_t b = 0; b < 2; b++) {
    for (int64_t p = 0; p < 12; p++) {
      for (int64_t c = 0; c < 5; c++) {
        const int64_t i = (b * 12 + p) * 5 + c;
        const double noise =
            normal_noise(42, static_cast<uint64_t>(7 + b), static_cast<uint64_t>(c * 12 + p));
        const double deviation = std::exp(0.5 * static_cast<double>(posterior.logvar.data()[i]));
        const double expected = static_cast<double>(posterior.mean.data()[i]) + deviation * noise;
        ASSERT_NEAR(static_cast<double>(z.data()[i]), expected, 1e-6 * (1 + std::abs(expected)));
      }
    }
  }
}

TEST(Posterior, samples_a_picture_as_it_does_in_a_batch) {
  const Posterior batch = random_posterior({3, 2, 2, 4});
  const Tensor z = batch.sample(9);
  for (int64_t b = 0; b < 3; b++) {
    const auto part = [&](const Tensor& t) {
      return Tensor({1, 2, 2, 4}, t.values().subspan(static_cast<size_t>(16 * b), 16));
    };
    const Posterior single{part(batch.mean), part(batch.logvar)};
    EXPECT_TRUE(
        std::ranges::equal(single.sample(9, static_cast<uint64_t>(b)).values(), part(z).values()));
  }
}

TEST(Posterior, samples_another_z_for_another_seed) {
  const Posterior posterior = random_posterior({1, 2, 2, 4});
  EXPECT_FALSE(std::ranges::equal(posterior.sample(1).values(), posterior.sample(2).values()));
}

// The last bias of the encoder, set to values far outside, decides the log variance.
TEST(Posterior, has_a_log_variance_between_minus_30_and_20) {
  AutoencoderKLConfig config = small_config();
  config.use_quant_conv = false;
  Model model = random_model(config, 1, DType::kF32);
  auto bias =
      std::make_shared<std::vector<float>>(std::vector<float>{0, 0, 0, 0, 1000, -1000, 0, 1000});
  model.tensors["encoder.conv_out.bias"] = {
      DType::kF32, {8}, reinterpret_cast<const std::byte*>(bias->data())};
  model.storage.push_back(bias);
  RunOptions options;
  options.backend = Backend::kReference;
  const Posterior posterior =
      AutoencoderKL(model).encode(Random(2).normal_tensor({1, 4, 4, 3}), options);
  for (int64_t p = 0; p < 4; p++) {
    EXPECT_EQ(posterior.logvar.data()[p * 4 + 0], 20);
    EXPECT_EQ(posterior.logvar.data()[p * 4 + 1], -30);
    EXPECT_LT(std::abs(posterior.logvar.data()[p * 4 + 2]), 20);
    EXPECT_EQ(posterior.logvar.data()[p * 4 + 3], 20);
  }
}

}  // namespace
}  // namespace calotype::test
