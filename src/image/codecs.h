// PNG, JPEG and WebP. Where the library is built without them, codecs_absent.cc stands in.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "calotype/tensor.h"
#include "image/bitmap.h"

namespace calotype {

// Throw Error(kInvalidData) for what is damaged or cut short, kUnsupported for what is not read.
Bitmap decode_png(std::span<const std::byte> bytes, const std::string& file);
Bitmap decode_jpeg(std::span<const std::byte> bytes, const std::string& file);
Bitmap decode_webp(std::span<const std::byte> bytes, const std::string& file);

// `image` is [1, H, W, 3] in [-1, 1]; the files are tagged sRGB.
std::vector<std::byte> encode_png(const Tensor& image, int bit_depth);
std::vector<std::byte> encode_jpeg(const Tensor& image, int quality);
std::vector<std::byte> encode_webp(const Tensor& image, int quality);

}  // namespace calotype
