// The CPU backend against the float64 reference: whole networks of random configs at odd sizes.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>
#include <vector>

#include "calotype/autoencoder_kl.h"
#include "model/decoder.h"
#include "model/encoder.h"
#include "model/tensor_source.h"
#include "support/compare.h"
#include "support/plain_run.h"
#include "support/random.h"
#include "support/random_vae.h"

namespace calotype::test {
namespace {

constexpr double kBound = 1e-5;  // relative RMS
constexpr int kCases = 30;

RunOptions on_cpu() {
  RunOptions options;
  options.backend = Backend::kCpu;
  return options;
}

double error_of(std::span<const float> result, const Graph& graph, const Tensor& input) {
  const std::vector<double> wide(input.values().begin(), input.values().end());
  return difference(result, run_reference(graph, input.dim(0), wide)).relative_rms;
}

// Mean and log variance of the reference's moments, as encode() gives them.
double encoding_error(const Posterior& result, const Graph& graph, const Tensor& image) {
  const std::vector<double> wide(image.values().begin(), image.values().end());
  const std::vector<double> moments = run_reference(graph, image.dim(0), wide);
  const auto channels = static_cast<size_t>(result.mean.dim(3));
  std::vector<double> truth;
  std::vector<float> found;
  for (size_t i = 0; i < moments.size(); i++) {
    const size_t pixel = i / (2 * channels), c = i % (2 * channels);
    const bool is_mean = c < channels;
    truth.push_back(is_mean ? moments[i] : std::clamp(moments[i], -30.0, 20.0));
    found.push_back(is_mean ? result.mean.values()[pixel * channels + c]
                            : result.logvar.values()[pixel * channels + c - channels]);
  }
  return difference(std::span<const float>(found), truth).relative_rms;
}

// Height and width of z, up to `most`, such that no group of a norm has fewer than 16 values, which
// is the least that the published networks have. With fewer the network itself multiplies every
// rounding: PyTorch's float32 is off by 1e-5 there.
std::pair<int64_t, int64_t> random_size(const AutoencoderKLConfig& config, int64_t most,
                                        Random& random) {
  int64_t narrowest = std::ranges::min(config.block_out_channels);
  narrowest = std::min(narrowest, std::ranges::min(config.decoder_channels()));
  for (;;) {
    const int64_t h = random.integer(1, most), w = random.integer(1, most);
    if (h * w * (narrowest / config.norm_num_groups) >= 16) return {h, w};
  }
}

TEST(CpuNetwork, agrees_with_the_float64_reference_on_any_config_and_size) {
  const uint64_t first = test_seed(1000);
  double worst = 0;
  for (uint64_t seed = first; seed < first + kCases; seed++) {
    Random random(seed);
    const AutoencoderKLConfig config = random_config(random);
    SCOPED_TRACE("seed " + std::to_string(seed) + ": " + describe(config));
    const DType dtype = random.pick(std::vector<DType>{DType::kF32, DType::kBF16, DType::kF16});
    const Model model = random_model(config, seed, dtype);
    const AutoencoderKL vae(model);
    ModelTensors tensors(model);

    const auto [h, w] = random_size(config, 9, random);
    const Tensor z = random.normal_tensor({random.integer(1, 2), h, w, config.latent_channels});
    const Graph decoder = Decoder(tensors, config).graph(h, w);
    const double decoding = error_of(vae.decode_z(z, on_cpu()).values(), decoder, z);
    EXPECT_LE(decoding, kBound) << "decoding z of shape " << shape_string(z.shape());

    // Pictures of whole patches.
    const int64_t f = config.spatial_factor();
    const auto [rows, columns] = random_size(config, 5, random);
    const Tensor image =
        random.normal_tensor({random.integer(1, 2), f * rows, f * columns, 3}, 0.5);
    const Graph encoder = Encoder(tensors, config).graph(image.dim(1), image.dim(2));
    const double encoding = encoding_error(vae.encode(image, on_cpu()), encoder, image);
    EXPECT_LE(encoding, kBound) << "encoding a picture of shape " << shape_string(image.shape());
    worst = std::max({worst, decoding, encoding});
  }
  std::printf("largest relative RMS of %d networks: %.1e\n", kCases, worst);
}

// Widths and depth of the real networks, at the smallest size that has every part of them.
TEST(CpuNetwork, agrees_with_the_reference_at_full_width) {
  const AutoencoderKLConfig config = family_config("flux");
  const Model model = random_model(config, 1);
  const AutoencoderKL vae(model);
  ModelTensors tensors(model);
  Random random(2);
  const Tensor z = random.normal_tensor({1, 3, 2, 16});
  const Difference decoding =
      difference(vae.decode_z(z, on_cpu()).values(),
                 run_reference(Decoder(tensors, config).graph(3, 2), 1,
                               std::vector<double>(z.values().begin(), z.values().end())));
  EXPECT_LE(decoding.relative_rms, kBound);
  EXPECT_GE(decoding.psnr, 100);
  std::printf("decoding: relative RMS %.1e, PSNR %.0f dB\n", decoding.relative_rms, decoding.psnr);
}

}  // namespace
}  // namespace calotype::test
