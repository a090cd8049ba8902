#include "model/latent_space.h"

#include <cmath>

#include "core/cat.h"
#include "core/sha256.h"

namespace calotype {

LatentSpace::LatentSpace(const AutoencoderKLConfig& config, std::vector<double> running_mean,
                         const std::vector<double>& running_var) {
  if (config.is_flux2()) {
    patch_ = config.patch_size.front();
    mean_ = std::move(running_mean);
    for (const double variance : running_var)
      factor_.push_back(1 / std::sqrt(variance + config.batch_norm_eps));
    return;
  }
  const auto channels = static_cast<size_t>(config.latent_channels);
  if (!config.latents_mean.empty() &&
      !config.latents_std.empty()) {  // shift_factor is not used then
    mean_ = config.latents_mean;
    for (const double std : config.latents_std) factor_.push_back(config.scaling_factor / std);
  } else {
    mean_.assign(channels, config.shift_factor.value_or(0));
    factor_.assign(channels, config.scaling_factor);
  }
}

Tensor LatentSpace::patchify(const Tensor& z) const {
  const int64_t n = z.dim(0), h = z.dim(1) / patch_, w = z.dim(2) / patch_, c = z.dim(3);
  if (h * patch_ != z.dim(1) || w * patch_ != z.dim(2)) {
    fail(ErrorCode::kInvalidArgument, "z of shape ", shape_string(z.shape()),
         " cannot be put into ", patch_, "x", patch_, " patches; its sides must be multiples of ",
         patch_);
  }
  Tensor patches({n, h, w, c * patch_ * patch_});
  float* out = patches.data();
  for (int64_t b = 0; b < n; b++)
    for (int64_t y = 0; y < h; y++)
      for (int64_t x = 0; x < w; x++)
        for (int64_t k = 0; k < c; k++)
          for (int64_t dy = 0; dy < patch_; dy++)
            for (int64_t dx = 0; dx < patch_; dx++)
              *out++ =
                  z.data()[((b * h * patch_ + y * patch_ + dy) * w * patch_ + x * patch_ + dx) * c +
                           k];
  return patches;
}

Tensor LatentSpace::unpatchify(const Tensor& patches) const {
  const int64_t n = patches.dim(0), h = patches.dim(1), w = patches.dim(2),
                c = patches.dim(3) / (patch_ * patch_);
  Tensor z({n, h * patch_, w * patch_, c});
  const float* in = patches.data();
  for (int64_t b = 0; b < n; b++)
    for (int64_t y = 0; y < h; y++)
      for (int64_t x = 0; x < w; x++)
        for (int64_t k = 0; k < c; k++)
          for (int64_t dy = 0; dy < patch_; dy++)
            for (int64_t dx = 0; dx < patch_; dx++)
              z.data()[((b * h * patch_ + y * patch_ + dy) * w * patch_ + x * patch_ + dx) * c +
                       k] = *in++;
  return z;
}

Tensor LatentSpace::scale(const Tensor& z) const {
  Tensor latents = patch_ > 1 ? patchify(z) : z.clone();
  const size_t channels = mean_.size();
  for (size_t i = 0; i < latents.values().size(); i++) {
    float& v = latents.values()[i];
    v = static_cast<float>((static_cast<double>(v) - mean_[i % channels]) * factor_[i % channels]);
  }
  return latents;
}

Tensor LatentSpace::unscale(const Tensor& latents) const {
  Tensor z = latents.clone();
  const size_t channels = mean_.size();
  for (size_t i = 0; i < z.values().size(); i++) {
    float& v = z.values()[i];
    v = static_cast<float>(static_cast<double>(v) / factor_[i % channels] + mean_[i % channels]);
  }
  return patch_ > 1 ? unpatchify(z) : std::move(z);
}

std::string LatentSpace::hash(int64_t spatial_factor) const {
  // Decimal text with 9 digits: the same on every machine, and blind to how a JSON file spells a
  // number.
  std::string text = cat("channels ", channels(), " factor ", spatial_factor, " patch ", patch_);
  char number[64];
  for (size_t i = 0; i < mean_.size(); i++) {
    std::snprintf(number, sizeof number, " %.9g*%.9g", mean_[i], factor_[i]);
    text += number;
  }
  return Sha256().update(text).hex();
}

}  // namespace calotype
