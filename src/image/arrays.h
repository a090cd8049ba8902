// Pictures as float32 arrays, for science and tests.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "calotype/tensor.h"

namespace calotype {

// [B, H, W, 3] (or [H, W, 3]) of floats, as they are. Throws Error(kInvalidData) naming `file` and
// what was found: other shapes, integers, NaN or infinity.
Tensor image_of_array(const TensorView& array, const std::string& file);
// The same for the one tensor `image` of a safetensors file.
Tensor image_of_safetensors(std::span<const std::byte> bytes, const std::string& file);

}  // namespace calotype
