#include "calotype/latents.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <memory>
#include <string_view>

#include "core/cat.h"
#include "core/checked.h"
#include "core/file.h"
#include "core/magic.h"
#include "core/narrowing.h"
#include "latents/npy.h"
#include "latents/packed.h"
#include "weights/safetensors.h"

namespace calotype {
namespace {

// Keys of ComfyUI's nodes.py, SaveLatent and LoadLatent. Files without the marker are of before the
// format had a version and hold z * 0.18215, whatever the model.
constexpr std::string_view kComfyKey = "latent_tensor", kComfyMarker = "latent_format_version_0";
constexpr std::string_view kKey = "latents";
constexpr float kComfyOldScale = static_cast<float>(1 / 0.18215);

// Keys of our own files' metadata.
constexpr const char* kMetaContent = "content";  // "latents", "z" or "moments"
constexpr const char* kMetaLayout = "layout";    // "NCHW" or "NHWC"
constexpr const char* kMetaHeight = "image_height";
constexpr const char* kMetaWidth = "image_width";
constexpr const char* kMetaModel = "model";
constexpr const char* kMetaSpace = "latent_space";

using Metadata = std::map<std::string, std::string>;

// What the container holds, before it is known to be latents.
struct Found {
  TensorView view;
  std::string name;  // for errors
  bool comfy = false;
  float scale = 1;
  Metadata metadata;
  std::shared_ptr<const void> storage = nullptr;  // what `view` points into, where not the file
};

Found found_in_safetensors(std::span<const std::byte> bytes, const std::string& file) {
  const SafetensorsFile parsed = parse_safetensors(bytes, file);
  Found found;
  bool marker = false;
  for (const auto& [name, dtype] : parsed.unreadable) {
    fail(ErrorCode::kInvalidData, file, ": holds ", name, " of ", dtype,
         "; the one tensor `latents` of F32, F16 or BF16 is expected");
  }
  for (const auto& [name, view] : parsed.tensors) {
    if (name == kComfyMarker && view.shape == Shape{0}) {
      marker = true;
    } else if (name == kKey || name == kComfyKey) {
      if (!found.name.empty()) {
        fail(ErrorCode::kInvalidData, file, ": holds both `latents` and `latent_tensor`; one of ",
             "them is expected");
      }
      found.name = name;
      found.view = view;
      found.comfy = name == kComfyKey;
    } else {
      fail(ErrorCode::kInvalidData, file, ": holds a tensor `", name, "` of shape ",
           shape_string(view.shape), "; latents are the one tensor `latents`, or `latent_tensor` ",
           "as ComfyUI writes it");
    }
  }
  if (found.name.empty()) {
    fail(ErrorCode::kInvalidData, file, ": holds no latents; a tensor `latents` is expected");
  }
  if (found.comfy && !marker) found.scale = kComfyOldScale;
  found.metadata = parsed.metadata;
  return found;
}

void check_no_picture(std::span<const std::byte> first, const std::string& file) {
  if (first.empty()) fail(ErrorCode::kInvalidData, file, ": is empty");
  if (looks_like_npy(first) || looks_like_safetensors(first)) return;
  const FileKind kind = kind_of(first);
  if (kind == FileKind::kUnknown) return;
  fail(ErrorCode::kInvalidData, file, ": is ", kind_name(kind), "; latents are expected");
}

// Of a pipe, which may have no end.
void check_stream(std::span<const std::byte> first, const std::string& file) {
  check_no_picture(first, file);
  if (looks_like_npy(first) || looks_like_safetensors(first)) return;
  fail(ErrorCode::kInvalidData, file, ": begins neither as an npy nor as a safetensors file does; ",
       "latents are expected");
}

Found found_in(std::span<const std::byte> bytes, const std::string& file) {
  check_no_picture(bytes, file);
  if (looks_like_npy(bytes)) {
    NpyArray array = parse_npy(bytes, file);
    return {array.view, "the array", false, 1, {}, std::move(array.storage)};
  }
  return found_in_safetensors(bytes, file);
}

std::string value_of(const Metadata& metadata, const char* key) {
  const auto found = metadata.find(key);
  return found == metadata.end() ? "" : found->second;
}

int64_t size_of(const Metadata& metadata, const char* key, const std::string& file) {
  const std::string text = value_of(metadata, key);
  if (text.empty()) return 0;
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 1 ||
      value > (int64_t{1} << 30)) {
    fail(ErrorCode::kInvalidData, file, ": records the ", key, " '", text.substr(0, 40),
         "', which is no number of pixels");
  }
  return value;
}

LatentLayout layout_of(const Metadata& metadata, const std::string& file) {
  const std::string text = value_of(metadata, kMetaLayout);
  if (text.empty() || text == "NCHW") return LatentLayout::kNchw;
  if (text == "NHWC") return LatentLayout::kNhwc;
  fail(ErrorCode::kInvalidData, file, ": records the layout '", text.substr(0, 40),
       "'; NCHW or NHWC is expected");
}

void read_content(const Metadata& metadata, const std::string& file, LatentFile& latents) {
  const std::string text = value_of(metadata, kMetaContent);
  if (text == "z") {
    latents.unscaled = true;
  } else if (text == "moments") {
    latents.unscaled = latents.moments = true;
  } else if (!text.empty() && text != "latents") {
    fail(ErrorCode::kInvalidData, file, ": records that it holds '", text.substr(0, 40),
         "'; latents, z or moments is expected");
  }
}

// Channels that the config wants of this content.
int64_t channels_of(const AutoencoderKLConfig& config, const LatentFile& file) {
  if (file.moments) return 2 * config.latent_channels;
  return file.unscaled ? config.latent_channels : config.channels();
}

// Picture pixels per latent pixel.
int64_t factor_of(const AutoencoderKLConfig& config, const LatentFile& file) {
  return file.unscaled ? config.spatial_factor() / config.patch_size.at(0)
                       : config.spatial_factor();
}

const char* content_name(const LatentFile& file) {
  return file.moments ? "moments" : file.unscaled ? "raw z" : "latents";
}

void check_dtype(const Found& found, const std::string& file) {
  switch (found.view.dtype) {
    case DType::kF64:
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
      return;
    default:
      fail(ErrorCode::kInvalidData, file, ": ", found.name, " is of dtype ",
           dtype_name(found.view.dtype), "; latents are F32, F16 or BF16");
  }
}

Tensor values_of(const Found& found, const std::string& file) {
  Tensor tensor(found.view.shape);
  copy_elements(found.view, 0, tensor.values());
  for (int64_t i = 0; i < tensor.size(); i++) {
    float& value = tensor.data()[i];
    value *= found.scale;
    if (!std::isfinite(value)) {
      fail(ErrorCode::kInvalidData, file, ": ", found.name, " has ", value, " at element ", i,
           "; every latent must be finite");
    }
  }
  return tensor;
}

// Says what to do where the other layout would fit.
[[noreturn]] void refuse_channels(const Found& found, LatentLayout layout, int64_t expected,
                                  const LatentFile& latents, const AutoencoderKLConfig& config,
                                  const std::string& file) {
  const Shape& s = found.view.shape;
  const bool nchw = layout == LatentLayout::kNchw;
  std::string hint = "; they are of another model";
  if (s[nchw ? 3 : 1] == expected) {
    hint = nchw ? "; give --layout nhwc if they are channels last"
                : "; give --layout nchw if they are channels first";
  } else if (s[nchw ? 1 : 3] == 2 * config.latent_channels && !latents.moments) {
    hint = cat("; twice ", config.latent_channels, " may be moments, or raw z of another model: ",
               "encode --moments into a .safetensors file, which says what it holds, or decode ",
               "their first half, the mean, with --unscaled");
  }
  fail(ErrorCode::kInvalidData, file, ": ", found.name, " of shape ", shape_string(s), " has ",
       s[nchw ? 1 : 3], " channels in ", nchw ? "NCHW" : "NHWC", "; this model's ",
       content_name(latents), " have ", expected, hint);
}

void check_shape(const Found& found, LatentLayout layout, const LatentFile& latents,
                 const AutoencoderKLConfig& config, const std::string& file) {
  const int64_t channels = channels_of(config, latents);
  const Shape& s = found.view.shape;
  if (s.size() != 4) {
    fail(ErrorCode::kInvalidData, file, ": ", found.name, " has the shape ", shape_string(s),
         "; latents are [B, C, H, W]",
         s.size() == 3 ? ", or packed tokens [B, N, C] with --size WxH" : "");
  }
  if (found.view.size() == 0) {
    fail(ErrorCode::kInvalidData, file, ": ", found.name, " is of size 0, ", shape_string(s));
  }
  if (s[layout == LatentLayout::kNchw ? 1 : 3] != channels) {
    refuse_channels(found, layout, channels, latents, config, file);
  }
}

bool has_tokens(const PackedGrid& grid, int64_t tokens) {
  return grid.rows > 0 && grid.columns > 0 && tokens % grid.rows == 0 &&
         tokens / grid.rows == grid.columns;
}

// Unpacks tokens of a picture of options.image_height x image_width.
void read_packed(const Found& found, const std::string& file, const AutoencoderKLConfig& config,
                 const ReadLatentsOptions& options, LatentFile& latents) {
  const Shape& s = found.view.shape;
  // FLUX.2's tokens are its latents (diffusers Flux2Pipeline); FLUX.1's, and raw z, are 2x2 patches
  // of them (FluxPipeline._unpack_latents).
  const int64_t patch = config.is_flux2() && !latents.unscaled ? 1 : 2;
  const int64_t width = channels_of(config, latents) * patch * patch;
  if (s[0] < 1 || s[1] < 1 || s[2] != width) {
    fail(ErrorCode::kInvalidData, file, ": ", found.name, " has the shape ", shape_string(s),
         "; packed tokens of this model are [B, N, ", width, "]");
  }
  const int64_t side = patch * factor_of(config, latents);  // of a token, in pixels
  const int64_t h = options.image_height, w = options.image_width;
  const PackedGrid grid = {h / side, w / side, patch};
  const PackedGrid padded = {grid.rows + (h % side > 0), grid.columns + (w % side > 0), patch};
  latents.packed = true;
  if (has_tokens(grid, s[1])) {
    latents.latents = unpack_tokens(values_of(found, file), grid);
    latents.image_height = grid.rows * side;
    latents.image_width = grid.columns * side;
  } else if (has_tokens(padded, s[1])) {
    latents.latents = unpack_tokens(values_of(found, file), padded);
    latents.image_height = h;
    latents.image_width = w;
  } else {
    fail(ErrorCode::kInvalidData, file, ": ", found.name, " has ", s[1],
         " tokens a picture; one of ", w, " x ", h, " pixels has ", grid.columns, " x ", grid.rows);
  }
}

// A recorded size must be one that pads to the latents.
void check_recorded_size(const LatentFile& latents, int64_t factor, const std::string& file) {
  if (latents.image_height == 0 && latents.image_width == 0) return;
  const auto padded = [&](int64_t side) { return (side + factor - 1) / factor; };
  if (padded(latents.image_height) != latents.latents.dim(1) ||
      padded(latents.image_width) != latents.latents.dim(2)) {
    fail(ErrorCode::kInvalidData, file, ": records a picture of ", latents.image_width, " x ",
         latents.image_height, " pixels, which gives no latents of ", latents.latents.dim(2), " x ",
         latents.latents.dim(1));
  }
}

LatentFile latents_of(const Found& found, const std::string& file,
                      const AutoencoderKLConfig& config, const ReadLatentsOptions& options) {
  check_dtype(found, file);
  LatentFile latents;
  latents.dtype = found.view.dtype;
  latents.image_height = size_of(found.metadata, kMetaHeight, file);
  latents.image_width = size_of(found.metadata, kMetaWidth, file);
  latents.model = value_of(found.metadata, kMetaModel);
  latents.latent_space = value_of(found.metadata, kMetaSpace);
  read_content(found.metadata, file, latents);
  // ComfyUI's latents are raw z, but for FLUX.2: there they are the batch-normed patches.
  if (found.comfy) latents.unscaled = !config.is_flux2();
  if (options.unscaled) latents.unscaled = true;

  if (found.view.shape.size() == 3 && options.image_height > 0 && options.image_width > 0) {
    read_packed(found, file, config, options, latents);
    return latents;
  }
  const LatentLayout layout = options.layout.value_or(layout_of(found.metadata, file));
  check_shape(found, layout, latents, config, file);
  Tensor values = values_of(found, file);
  latents.latents = layout == LatentLayout::kNchw ? nchw_to_nhwc(values) : std::move(values);
  check_recorded_size(latents, factor_of(config, latents), file);
  return latents;
}

void check_writable(const LatentFile& file, const std::string& path,
                    const AutoencoderKLConfig& config, LatentFormat format,
                    const WriteLatentsOptions& options) {
  const Shape& s = file.latents.shape();
  if (s.size() != 4 || file.latents.size() == 0 || s[3] != channels_of(config, file)) {
    fail(ErrorCode::kInvalidArgument, "a tensor of shape ", shape_string(s),
         " cannot be written as this model's ", content_name(file), "; [B, h, w, ",
         channels_of(config, file), "] is expected");
  }
  const bool known = options.dtype == DType::kF32 || options.dtype == DType::kF16 ||
                     (options.dtype == DType::kBF16 && format != LatentFormat::kNpy);
  if (!known) {
    fail(ErrorCode::kInvalidArgument, path, ": latents of dtype ", dtype_name(options.dtype),
         " cannot be written here; ",
         format == LatentFormat::kNpy ? "F32 or F16" : "F32, F16 or BF16", " can");
  }
  if (format != LatentFormat::kComfy) return;
  if (options.layout != LatentLayout::kNchw) {
    fail(ErrorCode::kInvalidArgument, path, ": a .latent file is NCHW, as ComfyUI reads it");
  }
  if (file.moments || file.unscaled == config.is_flux2()) {
    fail(ErrorCode::kInvalidArgument, path, ": a .latent file holds ",
         config.is_flux2() ? "scaled latents of FLUX.2" : "raw z (encode --unscaled)", ", not ",
         content_name(file));
  }
}

Metadata metadata_of(const LatentFile& file, LatentLayout layout) {
  Metadata metadata;
  metadata["format"] = "pt";  // what the safetensors package's loaders look for
  metadata[kMetaContent] = file.moments ? "moments" : file.unscaled ? "z" : "latents";
  metadata[kMetaLayout] = layout == LatentLayout::kNchw ? "NCHW" : "NHWC";
  if (file.image_height > 0) metadata[kMetaHeight] = cat(file.image_height);
  if (file.image_width > 0) metadata[kMetaWidth] = cat(file.image_width);
  if (!file.model.empty()) metadata[kMetaModel] = file.model;
  if (!file.latent_space.empty()) metadata[kMetaSpace] = file.latent_space;
  return metadata;
}

}  // namespace

LatentFormat latent_format_of(const std::string& path) {
  std::string suffix = std::filesystem::path(path).extension().string();
  std::transform(suffix.begin(), suffix.end(), suffix.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  if (suffix == ".safetensors") return LatentFormat::kSafetensors;
  if (suffix == ".npy") return LatentFormat::kNpy;
  if (suffix == ".latent") return LatentFormat::kComfy;
  fail(ErrorCode::kUnsupported, path, ": has ", suffix.empty() ? "no suffix" : "the suffix ",
       suffix, "; .safetensors, .npy and .latent are known for latents");
}

LatentFile decode_latents(std::span<const std::byte> bytes, const std::string& file,
                          const AutoencoderKLConfig& config, const ReadLatentsOptions& options) {
  return latents_of(found_in(bytes, file), file, config, options);
}

LatentFile read_latents(const std::string& path, const AutoencoderKLConfig& config,
                        const ReadLatentsOptions& options) {
  const std::string file = path == "-" ? "standard input" : path;
  std::error_code ignored;
  if (path != "-" && std::filesystem::is_regular_file(path, ignored)) {
    return decode_latents(MappedFile::open(path)->bytes(), file, config, options);
  }
  const auto bytes =
      read_file(path, static_cast<size_t>(kLongestStream),
                [&](std::span<const std::byte> first) { check_stream(first, file); });
  return decode_latents(bytes, file, config, options);
}

void write_latents(const LatentFile& file, const std::string& path,
                   const AutoencoderKLConfig& config, const WriteLatentsOptions& options) {
  const LatentFormat format = options.format ? *options.format
                              : path == "-"  ? LatentFormat::kSafetensors
                                             : latent_format_of(path);
  check_writable(file, path, config, format, options);
  const bool nchw = options.layout == LatentLayout::kNchw;
  const Tensor stored = nchw ? nhwc_to_nchw(file.latents) : file.latents.clone();
  check_narrowing(stored.values(), options.dtype, cat(path, ": cannot be written: a latent"));
  if (format == LatentFormat::kNpy) {
    write_file(path, npy_bytes(stored.values(), stored.shape(), options.dtype));
    return;
  }
  std::vector<std::byte> bytes(static_cast<size_t>(byte_count(options.dtype, stored.shape())));
  convert_elements(stored.values(), options.dtype, bytes.data());
  const bool comfy = format == LatentFormat::kComfy;
  std::vector<SafetensorsEntry> entries = {SafetensorsEntry::of(
      std::string(comfy ? kComfyKey : kKey), {options.dtype, stored.shape(), bytes.data()})};
  if (comfy) {
    entries.push_back(
        SafetensorsEntry::of(std::string(kComfyMarker), {DType::kF32, {0}, bytes.data()}));
  }
  write_safetensors(path, metadata_of(file, options.layout), std::move(entries));
}

}  // namespace calotype
