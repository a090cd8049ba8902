#include "weights/infer.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/cat.h"

namespace calotype {
namespace {

constexpr int64_t kGroups = 32;  // of every published autoencoder; no shape tells it
constexpr int64_t kMaxCounted = 100;

// Names that only checkpoints of one family have. The first that is found decides.
struct Hint {
  std::string_view part, family;
};
constexpr std::array kHints = {
    Hint{"double_stream_modulation_img.", "flux2"},
    Hint{"joint_blocks.", "sd3"},
    Hint{"double_blocks.", "flux"},
    Hint{"model.diffusion_model.cap_embedder.", "flux"},  // Z-Image, Lumina 2
    Hint{"conditioner.embedders.", "sdxl"},
    Hint{"cond_stage_model.model.", "sd2"},
    Hint{"cond_stage_model.transformer.", "sd1"},
    Hint{"model.diffusion_model.label_emb.", "sdxl"},  // last: SD 2.1 unCLIP has it too
};
constexpr const char* kCrossAttention =
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight";
constexpr int64_t kOpenClipWidth = 1024, kClipWidth = 768;

// What the shapes of one half say.
struct Half {
  std::vector<int64_t> widths;  // from the picture to the latents
  int64_t layers = 0;
  int64_t latent_channels = 0, picture_channels = 0;
  bool attention = false;
};

class Shapes {
 public:
  Shapes(const TensorMap& tensors, const std::string& file) : tensors_(tensors), file_(file) {}

  bool has(const std::string& name) const { return tensors_.contains(name); }
  bool has_prefix(const std::string& prefix) const {
    const auto next = tensors_.lower_bound(prefix);
    return next != tensors_.end() && next->first.starts_with(prefix);
  }
  int64_t dim(const std::string& name, size_t axis, size_t rank) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) {
      fail(ErrorCode::kInvalidData, file_, ": has no tensor \"", name,
           "\", so that its config cannot be inferred");
    }
    if (found->second.shape.size() != rank) {
      fail(ErrorCode::kInvalidData, file_, ": the tensor \"", name, "\" has the shape ",
           shape_string(found->second.shape), ", but ", rank, " dimensions are expected");
    }
    return found->second.shape[axis];
  }
  // The first of 0, 1, 2, … for which there is no `before` N `after`.
  int64_t count(const std::string& before, const std::string& after) const {
    int64_t n = 0;
    while (n < kMaxCounted && has(cat(before, n, after))) n++;
    return n;
  }

 private:
  const TensorMap& tensors_;
  const std::string& file_;
};

std::optional<Half> read_encoder(const Shapes& shapes) {
  if (!shapes.has_prefix("encoder.")) return std::nullopt;
  Half half;
  half.picture_channels = shapes.dim("encoder.conv_in.weight", 1, 4);
  half.latent_channels = shapes.dim("encoder.conv_out.weight", 0, 4) / 2;
  const std::string first = ".resnets.0.conv1.weight";
  const int64_t levels = shapes.count("encoder.down_blocks.", first);
  for (int64_t i = 0; i < levels; i++) {
    half.widths.push_back(shapes.dim(cat("encoder.down_blocks.", i, first), 0, 4));
  }
  half.layers = shapes.count("encoder.down_blocks.0.resnets.", ".conv1.weight");
  half.attention = shapes.has("encoder.mid_block.attentions.0.group_norm.weight");
  return half;
}

std::optional<Half> read_decoder(const Shapes& shapes) {
  if (!shapes.has_prefix("decoder.")) return std::nullopt;
  Half half;
  half.picture_channels = shapes.dim("decoder.conv_out.weight", 0, 4);
  half.latent_channels = shapes.dim("decoder.conv_in.weight", 1, 4);
  const std::string first = ".resnets.0.conv1.weight";
  const int64_t levels = shapes.count("decoder.up_blocks.", first);
  for (int64_t i = levels - 1; i >= 0; i--) {
    half.widths.push_back(shapes.dim(cat("decoder.up_blocks.", i, first), 0, 4));
  }
  half.layers = shapes.count("decoder.up_blocks.0.resnets.", ".conv1.weight") - 1;
  half.attention = shapes.has("decoder.mid_block.attentions.0.group_norm.weight");
  return half;
}

template <class T>
void check_same(const std::string& file, const char* what, const T& encoder, const T& decoder) {
  if (encoder != decoder) {
    fail(ErrorCode::kInvalidData, file, ": its encoder has ", encoder, " ", what,
         ", its decoder has ", decoder);
  }
}

// Everything but the widths must be the same in both halves.
void check_halves(const Half& encoder, const Half& decoder, const std::string& file) {
  check_same(file, "levels", encoder.widths.size(), decoder.widths.size());
  check_same(file, "latent channels", encoder.latent_channels, decoder.latent_channels);
  check_same(file, "layers a block", encoder.layers, decoder.layers);
  check_same(file, "attentions in its middle", encoder.attention, decoder.attention);
}

std::string family_of_channels(const Shapes& shapes, int64_t latent_channels) {
  if (latent_channels == 32 && shapes.has("bn.running_mean")) return "flux2";
  if (latent_channels == 16) return "flux";
  if (latent_channels == 4) return "sd1";
  return "";
}

void check_family_channels(const std::string& family, int64_t expected, int64_t found,
                           const std::string& file) {
  if (expected == found) return;
  fail(ErrorCode::kInvalidArgument, file, ": is not of the family ", family, ", which has ",
       expected, " latent channels: it has ", found);
}

// The config that tells what shapes do not: scaling, shift, class.
AutoencoderKLConfig base_config(const Shapes& shapes, const Half& half, const std::string& family,
                                const std::string& hint, const std::string& file) {
  if (!family.empty()) {
    AutoencoderKLConfig config = family_config(family);
    check_family_channels(family, config.latent_channels, half.latent_channels, file);
    return config;
  }
  for (const std::string& each : {hint, family_of_channels(shapes, half.latent_channels)}) {
    if (each.empty()) continue;
    AutoencoderKLConfig config = family_config(each);
    if (config.latent_channels == half.latent_channels) return config;
  }
  AutoencoderKLConfig config;
  if (shapes.has("bn.running_mean")) {
    config = family_config("flux2");
    config.latent_channels = half.latent_channels;
  }
  return config;
}

void infer_patch(AutoencoderKLConfig& config, const Shapes& shapes, const std::string& file) {
  if (!config.is_flux2() || !shapes.has("bn.running_mean")) return;
  const int64_t channels = shapes.dim("bn.running_mean", 0, 1);
  int64_t side = 1;
  while (side < kMaxCounted && config.latent_channels * side * side < channels) side++;
  if (config.latent_channels * side * side != channels) {
    fail(ErrorCode::kInvalidData, file, ": the tensor \"bn.running_mean\" has ", channels,
         " values, which are no square patches of ", config.latent_channels, " latent channels");
  }
  config.patch_size = {side, side};
}

// block_out_channels are the encoder's; a FLUX.2 decoder may have widths of its own.
void infer_widths(AutoencoderKLConfig& config, const std::optional<Half>& encoder,
                  const std::optional<Half>& decoder, const std::string& file) {
  const std::vector<int64_t> usual = config.block_out_channels;
  config.block_out_channels = encoder ? encoder->widths : decoder->widths;
  if (!decoder || decoder->widths == config.block_out_channels) {
    if (encoder || !config.is_flux2() || decoder->widths.size() != usual.size()) return;
    config.block_out_channels = usual;  // a FLUX.2 decoder alone: the encoder is the usual one
  }
  if (decoder->widths == config.block_out_channels) return;
  if (!config.is_flux2()) {
    fail(ErrorCode::kInvalidData, file, ": its encoder has the widths ",
         shape_string(config.block_out_channels), ", its decoder ", shape_string(decoder->widths),
         ": an AutoencoderKL has the same in both");
  }
  config.decoder_block_out_channels = decoder->widths;
}

void check_groups(const AutoencoderKLConfig& config, const std::string& file) {
  for (const auto* widths : {&config.block_out_channels, &config.decoder_block_out_channels}) {
    for (const int64_t width : *widths) {
      if (width % kGroups == 0) continue;
      fail(ErrorCode::kUnsupported, file, ": has the width ", width, ", which ", kGroups,
           " groups do not divide, and no shape tells norm_num_groups; load the diffusers folder "
           "that it was made from, which has a config.json");
    }
  }
}

}  // namespace

std::string family_hint(const TensorMap& checkpoint) {
  for (const Hint& hint : kHints) {
    for (const auto& [name, tensor] : checkpoint) {
      if (name.find(hint.part) != std::string::npos) return std::string(hint.family);
    }
  }
  const auto cross = checkpoint.find(kCrossAttention);
  if (cross != checkpoint.end() && cross->second.shape.size() == 2) {
    if (cross->second.shape[1] == kOpenClipWidth) return "sd2";
    if (cross->second.shape[1] == kClipWidth) return "sd1";
  }
  return "";
}

void apply_edm_statistics(const TensorMap& checkpoint, AutoencoderKLConfig& config) {
  constexpr double kPlaygroundScaling = 0.5;  // of its vae/config.json
  const auto mean = checkpoint.find("edm_mean"), deviation = checkpoint.find("edm_std");
  if (mean == checkpoint.end() || deviation == checkpoint.end()) return;
  for (const TensorView& view : {mean->second, deviation->second}) {
    if (view.size() != config.latent_channels || !is_weight_dtype(view.dtype)) return;
  }
  config.scaling_factor = kPlaygroundScaling;
  config.latents_mean.resize(static_cast<size_t>(config.latent_channels));
  config.latents_std.resize(static_cast<size_t>(config.latent_channels));
  copy_elements(mean->second, 0, std::span<double>(config.latents_mean));
  copy_elements(deviation->second, 0, std::span<double>(config.latents_std));
}

void apply_family(const TensorMap& vae, const std::string& family, const std::string& file,
                  AutoencoderKLConfig& config) {
  const AutoencoderKLConfig chosen = family_config(family);
  check_family_channels(family, chosen.latent_channels, config.latent_channels, file);
  const auto statistics = vae.find("bn.running_mean");
  if (chosen.is_flux2() && statistics != vae.end() &&
      statistics->second.size() != chosen.channels()) {
    fail(ErrorCode::kInvalidArgument, file, ": is not of the family ", family,
         ", whose patches have ", chosen.channels(),
         " channels: its tensor \"bn.running_mean\" has ", statistics->second.size());
  }
  config.class_name = chosen.class_name;
  config.patch_size = chosen.patch_size;
  config.scaling_factor = chosen.scaling_factor;
  config.shift_factor = chosen.shift_factor;
  config.latents_mean = chosen.latents_mean;
  config.latents_std = chosen.latents_std;
  // SD 1 and SD 2 differ in nothing else.
  if (family_of(config) != family) config.sample_size = chosen.sample_size;
}

AutoencoderKLConfig infer_config(const TensorMap& vae, const std::string& family,
                                 const std::string& hint, const std::string& file) {
  const Shapes shapes(vae, file);
  const std::optional<Half> encoder = read_encoder(shapes), decoder = read_decoder(shapes);
  if (!encoder && !decoder) {
    fail(ErrorCode::kInvalidData, file, ": holds no autoencoder: none of its ", vae.size(),
         " tensors is named encoder.… or decoder.…",
         vae.empty() ? "" : cat("; the first is \"", vae.begin()->first, "\""));
  }
  if (encoder && decoder) check_halves(*encoder, *decoder, file);
  const Half& half = encoder ? *encoder : *decoder;
  AutoencoderKLConfig config = base_config(shapes, half, family, hint, file);
  if (encoder) config.in_channels = encoder->picture_channels;
  if (decoder) config.out_channels = decoder->picture_channels;
  config.latent_channels = half.latent_channels;
  config.layers_per_block = half.layers;
  config.mid_block_add_attention = half.attention;
  // A half alone says nothing of the other's convolution: published ones have both or neither.
  const bool quant = shapes.has("quant_conv.weight"), post = shapes.has("post_quant_conv.weight");
  config.use_quant_conv = encoder ? quant : post;
  config.use_post_quant_conv = decoder ? post : quant;
  infer_widths(config, encoder, decoder, file);
  config.down_block_types.assign(config.block_out_channels.size(), "DownEncoderBlock2D");
  config.up_block_types.assign(config.block_out_channels.size(), "UpDecoderBlock2D");
  infer_patch(config, shapes, file);
  check_groups(config, file);
  return config;
}

}  // namespace calotype
