#include "latents/packed.h"

namespace calotype {

Tensor unpack_tokens(const Tensor& tokens, const PackedGrid& grid) {
  const int64_t batch = tokens.dim(0), p = grid.patch, channels = tokens.dim(2) / (p * p);
  const int64_t height = grid.rows * p, width = grid.columns * p;
  Tensor latents({batch, height, width, channels});
  float* out = latents.data();
  for (int64_t b = 0; b < batch; b++) {
    for (int64_t y = 0; y < height; y++) {
      for (int64_t x = 0; x < width; x++) {
        const int64_t token = (b * grid.rows + y / p) * grid.columns + x / p;
        const float* values = tokens.data() + token * tokens.dim(2) + y % p * p + x % p;
        for (int64_t c = 0; c < channels; c++) *out++ = values[c * p * p];
      }
    }
  }
  return latents;
}

}  // namespace calotype
