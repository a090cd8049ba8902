// Latents as the sequence of tokens that diffusion transformers see.
#pragma once

#include <cstdint>

#include "calotype/tensor.h"

namespace calotype {

// Tokens [batch, rows * columns, channels * patch^2], in raster order, each a patch x patch square
// of latents; channel c * patch^2 + dy * patch + dx, as diffusers packs them.
struct PackedGrid {
  int64_t rows = 0, columns = 0;
  int64_t patch = 1;
};

// To NHWC [batch, rows * patch, columns * patch, channels].
Tensor unpack_tokens(const Tensor& tokens, const PackedGrid& grid);

}  // namespace calotype
