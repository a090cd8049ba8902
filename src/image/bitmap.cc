#include "image/bitmap.h"

#include <algorithm>
#include <limits>
#include <optional>

#include "core/cat.h"
#include "core/checked.h"
#include "image/colour.h"

namespace calotype {
namespace {

// Where pixel (x, y) of the file goes in the upright picture: base + x * dx + y * dy.
struct Placement {
  int64_t base, dx, dy;
};

// EXIF 2.32, 4.6.4 A, Orientation: where the 0th row and the 0th column are, seen upright.
Placement place(int orientation, int64_t w, int64_t h) {
  switch (orientation) {
    case 2:  // mirrored left to right
      return {w - 1, -1, w};
    case 3:  // turned by 180 degrees
      return {h * w - 1, -1, -w};
    case 4:  // mirrored top to bottom
      return {(h - 1) * w, 1, -w};
    case 5:  // transposed
      return {0, h, 1};
    case 6:  // to be turned clockwise
      return {h - 1, h, -1};
    case 7:  // transposed over the other diagonal
      return {w * h - 1, -h, -1};
    case 8:  // to be turned counter-clockwise
      return {(w - 1) * h, -h, 1};
    default:
      return {0, 1, w};
  }
}

template <class Sample>
void unpack_row(const Bitmap& bitmap, const uint8_t* row, float* colours, float* alphas) {
  const auto* samples = reinterpret_cast<const Sample*>(row);
  constexpr float kMaximum = static_cast<float>(std::numeric_limits<Sample>::max());
  const int colour_channels = bitmap.colour_channels();
  for (int64_t x = 0; x < bitmap.width; x++) {
    for (int c = 0; c < colour_channels; c++) {
      *colours++ = static_cast<float>(*samples++) / kMaximum;
    }
    if (bitmap.alpha) *alphas++ = static_cast<float>(*samples++) / kMaximum;
  }
}

// Without a profile: grey is replicated; CMYK (complemented) is what ink and black let through.
void to_rgb(ColourModel model, const float* colours, float* rgb, int64_t pixels) {
  for (int64_t x = 0; x < pixels; x++) {
    for (int c = 0; c < 3; c++) {
      rgb[3 * x + c] = model == ColourModel::kGrey  ? colours[x]
                       : model == ColourModel::kRgb ? colours[3 * x + c]
                                                    : colours[4 * x + c] * colours[4 * x + 3];
    }
  }
}

}  // namespace

bool image_codecs_built() { return true; }

int Bitmap::colour_channels() const {
  return model == ColourModel::kGrey ? 1 : model == ColourModel::kRgb ? 3 : 4;
}

void Bitmap::allocate() {
  samples = std::make_unique_for_overwrite<uint8_t[]>(
      static_cast<size_t>(checked_mul(row_bytes(), height)));
}

void check_picture_size(const std::string& file, int64_t width, int64_t height) {
  if (width < 1 || height < 1) {
    fail(ErrorCode::kInvalidData, file, ": claims to be a picture of ", width, " x ", height,
         " pixels; both sides must be at least 1");
  }
  if (height > kMaximumPixels / width) {
    fail(ErrorCode::kInvalidData, file, ": claims ", width, " x ", height, " pixels; at most ",
         kMaximumPixels, " (16384 x 16384) are read: scale the picture down or cut it");
  }
}

void check_memory(const std::string& file, const Bitmap& bitmap, int64_t more, int64_t memory) {
  // At most kMaximumPixels: no product overflows.
  const int64_t floats = bitmap.width * bitmap.height * 3 * static_cast<int64_t>(sizeof(float));
  const int64_t bytes = bitmap.row_bytes() * bitmap.height + floats + more;
  if (memory <= 0 || bytes <= memory) return;
  fail(ErrorCode::kOutOfMemory, file, ": reading its ", bitmap.width, " x ", bitmap.height,
       " pixels takes ", bytes, " bytes, more than the memory budget of ", memory,
       "; scale the picture down, or give it more memory");
}

void check_claim(const std::string& file, int64_t width, int64_t height, int64_t claimed,
                 int64_t units_per_byte, size_t bytes) {
  if (claimed / units_per_byte > static_cast<int64_t>(bytes)) {
    fail(ErrorCode::kInvalidData, file, ": claims ", width, " x ", height, " pixels, but its ",
         bytes, " bytes cannot hold as many: it is truncated or forged");
  }
}

void check_sparse_claim(const std::string& file, int64_t width, int64_t height, size_t bytes) {
  constexpr int64_t kSmall = int64_t{1} << 22;
  check_claim(file, width, height, std::max<int64_t>(0, width * height - kSmall),
              int64_t{128} * 128, bytes);
}

Tensor bitmap_to_tensor(const Bitmap& bitmap, const std::string& file,
                        const ReadImageOptions& options) {
  std::optional<ColourTransform> transform;
  if (!bitmap.icc.empty()) {
    transform.emplace(bitmap.icc, bitmap.model, bitmap.bits, file);
    if (transform->is_identity()) transform.reset();
  }
  const int64_t w = bitmap.width, h = bitmap.height;
  const bool turned = bitmap.orientation >= 5;
  Tensor image({1, turned ? w : h, turned ? h : w, 3});
  const Placement placement = place(bitmap.orientation, w, h);

  std::vector<float> colours(static_cast<size_t>(w * bitmap.colour_channels()));
  std::vector<float> alphas(bitmap.alpha ? static_cast<size_t>(w) : 0);
  std::vector<float> rgb(static_cast<size_t>(3 * w));
  for (int64_t y = 0; y < h; y++) {
    const uint8_t* row = bitmap.samples.get() + y * bitmap.row_bytes();
    if (bitmap.bits == 8) {
      unpack_row<uint8_t>(bitmap, row, colours.data(), alphas.data());
    } else {
      unpack_row<uint16_t>(bitmap, row, colours.data(), alphas.data());
    }
    if (transform) {
      transform->apply(colours.data(), rgb.data(), w);
    } else {
      to_rgb(bitmap.model, colours.data(), rgb.data(), w);
    }
    for (int64_t x = 0; x < w; x++) {
      float* out = image.data() + 3 * (placement.base + x * placement.dx + y * placement.dy);
      for (int c = 0; c < 3; c++) {
        float v = rgb[static_cast<size_t>(3 * x + c)];
        if (bitmap.alpha) {
          const float a = alphas[static_cast<size_t>(x)];
          v = a * v + (1 - a) * options.background[c];
        }
        out[c] = 2 * v - 1;
      }
    }
  }
  return image;
}

}  // namespace calotype
