// Pictures: files of the usual formats to and from float32 tensors, resizing, comparison.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "calotype/export.h"
#include "calotype/tensor.h"

namespace calotype {

// A picture is a Tensor [1, H, W, 3] of sRGB values in [-1, 1] (2 * v / 255 - 1 for 8 bits).
enum class ImageFormat { kPng, kJpeg, kWebp, kNpy, kSafetensors };

// By suffix (.png, .jpg, .jpeg, .webp, .npy, .safetensors, any case). Throws Error(kUnsupported)
// naming the suffixes known.
CALOTYPE_API ImageFormat image_format_of(const std::string& path);
CALOTYPE_API bool
image_codecs_built();  // false where the library was built without PNG, JPEG and WebP

struct ReadImageOptions {
  float background[3] = {1, 1, 1};  // what alpha is composed over, sRGB in [0, 1]
  // Bytes that a PNG, JPEG or WebP may take while it is read, and that are read of a pipe.
  // 0: as many as the picture wants, and 4 GiB.
  int64_t memory = 0;
};

// Reads a picture whatever its depth, palette, alpha, EXIF orientation or ICC profile: RGB, sRGB,
// upright. The format is told by the content: a pipe that holds no picture is not read to its end.
// `.npy` / `.safetensors` (key `image`): float32 NHWC, a batch allowed. "-" is standard input.
// Throws Error(kIo, kInvalidData, kUnsupported), and kOutOfMemory as soon as the header says so.
CALOTYPE_API Tensor read_image(const std::string& path, const ReadImageOptions& options = {});
CALOTYPE_API Tensor decode_image(std::span<const std::byte> bytes, const std::string& file,
                                 const ReadImageOptions& options = {});

struct WriteImageOptions {
  int quality = 95;   // JPEG and WebP, 1 to 100; 100 is lossless for WebP
  int bit_depth = 8;  // PNG: 8 or 16
  std::map<std::string, std::string> metadata = {};  // .safetensors only
};

// [1, H, W, 3] (npy and safetensors: [B, H, W, 3], unclamped) to a file that appears whole or not
// at all; 8-bit values are round(255 * clamp(y / 2 + 0.5)), tagged sRGB. "-" is standard output,
// then `format` must say which.
CALOTYPE_API void write_image(const Tensor& image, const std::string& path,
                              const WriteImageOptions& options = {},
                              std::optional<ImageFormat> format = {});
// Throws Error(kUnsupported), naming `file`, where the format has no pictures of this size.
CALOTYPE_API void check_image_size(const std::string& file, ImageFormat format, int64_t height,
                                   int64_t width);
CALOTYPE_API std::vector<std::byte> encode_image(const Tensor& image, ImageFormat format,
                                                 const WriteImageOptions& options = {});

// round(255 * clamp(y / 2 + 0.5)), NaN to 0. Sizes must agree.
CALOTYPE_API void to_uint8(std::span<const float> image, std::span<uint8_t> out);
CALOTYPE_API void from_uint8(std::span<const uint8_t> bytes, std::span<float> image);

// Lanczos (a = 3), antialiased, the window cut at the edges: as Pillow does. [B, H, W, C]. Values
// stay in [-1, 1], or where a picture has others, in its own range.
CALOTYPE_API Tensor resize(const Tensor& image, int64_t height, int64_t width);

// Of the 8-bit pictures (both clamped and rounded first). Infinity where they are equal.
CALOTYPE_API double psnr(const Tensor& a, const Tensor& b);
// Wang et al. 2004: 11x11 Gaussian window (smaller where a side is), sigma 1.5, per channel,
// averaged; of the 8-bit pictures.
CALOTYPE_API double ssim(const Tensor& a, const Tensor& b);

// Original, result and their difference (times `amplification`, around grey) side by side, each
// with a caption below.
CALOTYPE_API Tensor comparison(const Tensor& original, const Tensor& result, double amplification,
                               const std::string& captions_prefix = "");

// Height and width of a comparison; where captions wrap it may become a few lines higher.
CALOTYPE_API std::pair<int64_t, int64_t> comparison_size(int64_t height, int64_t width);

}  // namespace calotype
