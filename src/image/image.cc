#include "calotype/image.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "core/cat.h"
#include "core/file.h"
#include "core/magic.h"
#include "image/arrays.h"
#include "image/bitmap.h"
#include "image/codecs.h"
#include "latents/npy.h"
#include "weights/safetensors.h"

namespace calotype {
namespace {

// Throws what there is to say of a file that begins like no picture that is read.
void check_magic(std::span<const std::byte> first, const std::string& file) {
  const FileKind kind = kind_of(first);
  const bool codec = kind == FileKind::kPng || kind == FileKind::kJpeg || kind == FileKind::kWebp;
  if (codec || looks_like_npy(first) || looks_like_safetensors(first)) return;
  if (first.empty()) fail(ErrorCode::kInvalidData, file, ": is empty");
  fail(ErrorCode::kUnsupported, file, ": is ",
       kind == FileKind::kUnknown ? "no picture" : kind_name(kind),
       "; PNG, JPEG, WebP, npy and safetensors are read");
}

struct Limit {
  const char* name;
  int64_t side;
};

std::optional<Limit> limit_of(ImageFormat format) {
  switch (format) {
    case ImageFormat::kPng:
      return Limit{"PNG", kLongestPng};
    case ImageFormat::kJpeg:
      return Limit{"JPEG", kLongestJpeg};
    case ImageFormat::kWebp:
      return Limit{"WebP", kLongestWebp};
    default:
      return {};
  }
}

void check_background(const ReadImageOptions& options) {
  for (const float value : options.background) {
    if (!(value >= 0 && value <= 1)) {
      fail(ErrorCode::kInvalidArgument, "the background's colours must be from 0 to 1, not ",
           value);
    }
  }
}

void check_writable(const Tensor& image, ImageFormat format, const WriteImageOptions& options) {
  const bool array = format == ImageFormat::kNpy || format == ImageFormat::kSafetensors;
  const bool picture = image.shape().size() == 4 && image.dim(3) == 3 && image.size() > 0;
  if (!picture || (!array && image.dim(0) != 1)) {
    fail(ErrorCode::kInvalidArgument, "a tensor of shape ", shape_string(image.shape()),
         " cannot be written as a picture; [", array ? "B" : "1", ", H, W, 3] is expected");
  }
  if (options.quality < 1 || options.quality > 100) {
    fail(ErrorCode::kInvalidArgument, "the quality must be from 1 to 100, not ", options.quality);
  }
  if (options.bit_depth != 8 && options.bit_depth != 16) {
    fail(ErrorCode::kInvalidArgument, "the bit depth must be 8 or 16, not ", options.bit_depth);
  }
}

}  // namespace

ImageFormat image_format_of(const std::string& path) {
  std::string suffix = std::filesystem::path(path).extension().string();
  std::transform(suffix.begin(), suffix.end(), suffix.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  if (suffix == ".png") return ImageFormat::kPng;
  if (suffix == ".jpg" || suffix == ".jpeg") return ImageFormat::kJpeg;
  if (suffix == ".webp") return ImageFormat::kWebp;
  if (suffix == ".npy") return ImageFormat::kNpy;
  if (suffix == ".safetensors") return ImageFormat::kSafetensors;
  fail(ErrorCode::kUnsupported, path, ": has ", suffix.empty() ? "no suffix" : "the suffix ",
       suffix, "; .png, .jpg, .jpeg, .webp, .npy and .safetensors are known for pictures");
}

Tensor decode_image(std::span<const std::byte> bytes, const std::string& file,
                    const ReadImageOptions& options) {
  check_background(options);
  check_magic(bytes, file);
  if (looks_like_npy(bytes)) return image_of_array(parse_npy(bytes, file).view, file);
  switch (kind_of(bytes)) {
    case FileKind::kPng:
      return bitmap_to_tensor(decode_png(bytes, file, options.memory), file, options);
    case FileKind::kJpeg:
      return bitmap_to_tensor(decode_jpeg(bytes, file, options.memory), file, options);
    case FileKind::kWebp:
      return bitmap_to_tensor(decode_webp(bytes, file, options.memory), file, options);
    default:
      return image_of_safetensors(bytes, file);
  }
}

Tensor read_image(const std::string& path, const ReadImageOptions& options) {
  const std::string file = path == "-" ? "standard input" : path;
  std::error_code ignored;
  if (path != "-" && std::filesystem::is_regular_file(path, ignored)) {
    return decode_image(MappedFile::open(path)->bytes(), file, options);
  }
  const auto longest =
      options.memory > 0 ? std::min(options.memory, kLongestStream) : kLongestStream;
  const auto bytes = read_file(path, static_cast<size_t>(longest),
                               [&](std::span<const std::byte> first) { check_magic(first, file); });
  return decode_image(bytes, file, options);
}

std::vector<std::byte> encode_image(const Tensor& image, ImageFormat format,
                                    const WriteImageOptions& options) {
  check_writable(image, format, options);
  check_image_size("the picture", format, image.dim(1), image.dim(2));
  switch (format) {
    case ImageFormat::kPng:
      return encode_png(image, options.bit_depth);
    case ImageFormat::kJpeg:
      return encode_jpeg(image, options.quality);
    case ImageFormat::kWebp:
      return encode_webp(image, options.quality);
    case ImageFormat::kNpy:
      return npy_bytes(image.values(), image.shape(), DType::kF32);
    case ImageFormat::kSafetensors:
      return safetensors_bytes(options.metadata, {SafetensorsEntry::of("image", image.view())});
  }
  fail(ErrorCode::kInternal, "an unknown picture format was asked for");
}

void check_image_size(const std::string& file, ImageFormat format, int64_t height, int64_t width) {
  const std::optional<Limit> limit = limit_of(format);
  if (!limit || (width <= limit->side && height <= limit->side)) return;
  fail(ErrorCode::kUnsupported, file, ": a ", limit->name, " has at most ", limit->side, " x ",
       limit->side, " pixels and this picture has ", width, " x ", height,
       format == ImageFormat::kPng ? "; write an .npy instead" : "; write a PNG instead");
}

void write_image(const Tensor& image, const std::string& path, const WriteImageOptions& options,
                 std::optional<ImageFormat> format) {
  if (!format) {
    if (path == "-") {
      fail(ErrorCode::kInvalidArgument,
           "the format of a picture written to standard output must be given");
    }
    format = image_format_of(path);
  }
  if (image.shape().size() == 4) check_image_size(path, *format, image.dim(1), image.dim(2));
  write_file(path, encode_image(image, *format, options));
}

void to_uint8(std::span<const float> image, std::span<uint8_t> out) {
  if (image.size() != out.size()) {
    fail(ErrorCode::kInvalidArgument, image.size(), " values do not fit ", out.size(), " bytes");
  }
  for (size_t i = 0; i < image.size(); i++) {
    const double v = static_cast<double>(image[i]) / 2 + 0.5;
    // NaN compares false.
    out[i] = v > 0 ? static_cast<uint8_t>(255 * std::min(v, 1.0) + 0.5) : uint8_t{0};
  }
}

void from_uint8(std::span<const uint8_t> bytes, std::span<float> image) {
  if (image.size() != bytes.size()) {
    fail(ErrorCode::kInvalidArgument, bytes.size(), " bytes do not fit ", image.size(), " values");
  }
  for (size_t i = 0; i < bytes.size(); i++) image[i] = 2 * static_cast<float>(bytes[i]) / 255 - 1;
}

}  // namespace calotype
