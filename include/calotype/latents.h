// Latent files: safetensors, npy and ComfyUI's .latent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>

#include "calotype/export.h"
#include "calotype/model_source.h"
#include "calotype/tensor.h"

namespace calotype {

enum class LatentFormat { kSafetensors, kNpy, kComfy };
enum class LatentLayout { kNchw, kNhwc };

// By suffix (.safetensors, .npy, .latent). Throws Error(kUnsupported).
CALOTYPE_API LatentFormat latent_format_of(const std::string& path);

struct LatentFile {
  Tensor latents;             // NHWC [B, h, w, C], or moments [B, h, w, 2C]
  bool unscaled = false;      // raw z (`.latent` files)
  bool moments = false;       // mean and logvar, concatenated over channels
  DType dtype = DType::kF32;  // as stored
  int64_t image_height = 0;   // of the picture they were made from; 0: not recorded
  int64_t image_width = 0;
  bool packed = false;       // came as tokens: the picture's size is what their grid gives
  std::string model;         // name of the model that made them; empty: not recorded
  std::string latent_space;  // AutoencoderKL::latent_space_hash; empty: not recorded
};

struct ReadLatentsOptions {
  std::optional<LatentLayout> layout = {};  // overrides the file's metadata; default NCHW
  // For packed tokens [B, N, C * 4]: the size of the picture. Sides that are no multiple of a
  // token's lose the rest, as in diffusers' pipelines; or, where there are as many tokens as that
  // takes, are those of a picture that was padded.
  int64_t image_height = 0;
  int64_t image_width = 0;
  bool unscaled = false;  // the file holds raw z, whether or not it says so
};

// Reads latents of the space that `config` describes. Refuses, naming what was found: other keys,
// integer dtypes, wrong rank or channels, size 0, NaN or infinity, holes and trailing bytes. "-" is
// standard input.
CALOTYPE_API LatentFile read_latents(const std::string& path, const AutoencoderKLConfig& config,
                                     const ReadLatentsOptions& options = {});
CALOTYPE_API LatentFile decode_latents(std::span<const std::byte> bytes, const std::string& file,
                                       const AutoencoderKLConfig& config,
                                       const ReadLatentsOptions& options = {});

struct WriteLatentsOptions {
  DType dtype = DType::kF32;  // F32, F16, BF16 (npy: F32, F16)
  LatentLayout layout = LatentLayout::kNchw;
  std::optional<LatentFormat> format = {};  // instead of what the suffix says
};
// Writes `file.latents` with its metadata; the file appears whole or not at all. "-" is standard
// output (safetensors where no format is given).
CALOTYPE_API void write_latents(const LatentFile& file, const std::string& path,
                                const AutoencoderKLConfig& config,
                                const WriteLatentsOptions& options = {});

}  // namespace calotype
