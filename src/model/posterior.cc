#include <algorithm>
#include <cmath>

#include "calotype/autoencoder_kl.h"
#include "model/noise.h"

namespace calotype {

Tensor Posterior::sample(uint64_t seed, uint64_t first_image) const {
  const int64_t n = mean.dim(0), pixels = mean.dim(1) * mean.dim(2), channels = mean.dim(3);
  Tensor z(mean.shape());
  for (int64_t b = 0; b < n; b++) {
    const uint64_t stream = first_image + static_cast<uint64_t>(b);
    for (int64_t p = 0; p < pixels; p++) {
      for (int64_t c = 0; c < channels; c++) {
        const int64_t i = (b * pixels + p) * channels + c;
        const double noise = normal_noise(seed, stream, static_cast<uint64_t>(c * pixels + p));
        const double deviation = std::exp(0.5 * static_cast<double>(logvar.data()[i]));
        z.data()[i] = static_cast<float>(static_cast<double>(mean.data()[i]) + deviation * noise);
      }
    }
  }
  return z;
}

}  // namespace calotype
