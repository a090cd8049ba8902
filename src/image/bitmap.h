// What a codec hands over: samples as the file has them, and what is needed to make sRGB of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "calotype/image.h"

namespace calotype {

enum class ColourModel {
  kGrey,
  kRgb,
  kCmyk,  // complemented, as Adobe writes it into JPEG: the largest value is no ink
};

struct Bitmap {
  int64_t width = 0, height = 0;
  ColourModel model = ColourModel::kRgb;
  bool alpha = false;                  // straight alpha after the colour samples
  int bits = 8;                        // 8, or 16 in the machine's byte order
  int orientation = 1;                 // EXIF, 1 to 8
  std::vector<std::byte> icc;          // the embedded profile; empty: sRGB
  std::unique_ptr<uint8_t[]> samples;  // rows of interleaved samples, dense

  int colour_channels() const;
  int channels() const { return colour_channels() + (alpha ? 1 : 0); }
  int64_t row_bytes() const { return width * channels() * (bits / 8); }
  // Left uninitialised, so that a file that ends early never costs the memory that it claims.
  void allocate();
};

// Throws Error(kInvalidData) where a side is 0 or the picture has more than kMaximumPixels.
void check_picture_size(const std::string& file, int64_t width, int64_t height);
inline constexpr int64_t kMaximumPixels = int64_t{1} << 28;

// Throws Error(kOutOfMemory) where the bitmap, the floats made of it and `more` bytes of the
// codec's own take more than `memory` (0: no limit).
void check_memory(const std::string& file, const Bitmap& bitmap, int64_t more, int64_t memory);

// Throws Error(kInvalidData) where `claimed` units exceed what `bytes` bytes can hold at
// `units_per_byte`.
void check_claim(const std::string& file, int64_t width, int64_t height, int64_t claimed,
                 int64_t units_per_byte, size_t bytes);

// For coders that can spell plain colour in no bits at all. Small pictures may be of that kind;
// larger ones with less than a byte for 128 x 128 pixels are no photographs.
void check_sparse_claim(const std::string& file, int64_t width, int64_t height, size_t bytes);

// Upright sRGB [1, H, W, 3] in [-1, 1]: profile, then alpha over the background, then orientation.
Tensor bitmap_to_tensor(const Bitmap& bitmap, const std::string& file,
                        const ReadImageOptions& options);

}  // namespace calotype
