// PNG, JPEG and WebP. Where the library is built without them, codecs_absent.cc stands in.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "calotype/tensor.h"
#include "image/bitmap.h"

namespace calotype {

// The longest sides that the formats have.
inline constexpr int64_t kLongestPng = 0x7fffffff, kLongestJpeg = 65500, kLongestWebp = 16383;

// Throw Error(kInvalidData) for what is damaged or cut short, kUnsupported for what is not read,
// and before any pixel is, kOutOfMemory for what would take more than `memory` bytes (0: no limit).
Bitmap decode_png(std::span<const std::byte> bytes, const std::string& file, int64_t memory = 0);
Bitmap decode_jpeg(std::span<const std::byte> bytes, const std::string& file, int64_t memory = 0);
Bitmap decode_webp(std::span<const std::byte> bytes, const std::string& file, int64_t memory = 0);

// `image` is [1, H, W, 3] in [-1, 1], of a size that the format has; the files are tagged sRGB.
std::vector<std::byte> encode_png(const Tensor& image, int bit_depth);
std::vector<std::byte> encode_jpeg(const Tensor& image, int quality);
std::vector<std::byte> encode_webp(const Tensor& image, int quality);

}  // namespace calotype
