// From raw z, which the decoder takes, to the scaled latents that diffusion models work on, and
// back.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "calotype/model_source.h"
#include "calotype/tensor.h"

namespace calotype {

// Per channel: latents = (z - mean) * factor. With `patch` > 1 (FLUX.2) z is first put into patch x
// patch patches, channel order c * patch^2 + dy * patch + dx.
class LatentSpace {
 public:
  // `running_mean` and `running_var`: the tensors bn.* of FLUX.2, empty otherwise.
  LatentSpace(const AutoencoderKLConfig& config, std::vector<double> running_mean,
              const std::vector<double>& running_var);

  int64_t patch() const { return patch_; }
  int64_t channels() const { return static_cast<int64_t>(mean_.size()); }
  // Per channel of the (patched) latents.
  const std::vector<double>& mean() const { return mean_; }
  const std::vector<double>& factor() const { return factor_; }
  Tensor scale(const Tensor& z) const;
  Tensor unscale(const Tensor& latents) const;
  std::string hash(int64_t spatial_factor) const;

 private:
  Tensor patchify(const Tensor& z) const;
  Tensor unpatchify(const Tensor& patches) const;

  int64_t patch_ = 1;
  std::vector<double> mean_, factor_;
};

}  // namespace calotype
