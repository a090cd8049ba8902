// Where models come from: one function finds config and tensors, whatever the container; one writes
// them.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "calotype/export.h"
#include "calotype/tensor.h"

namespace calotype {

// The fields of a diffusers `config.json` (class AutoencoderKL or AutoencoderKLFlux2), with the
// class's own defaults.
struct CALOTYPE_API AutoencoderKLConfig {
  std::string class_name = "AutoencoderKL";  // or "AutoencoderKLFlux2"
  int64_t in_channels = 3;
  int64_t out_channels = 3;
  std::vector<std::string> down_block_types = {"DownEncoderBlock2D"};
  std::vector<std::string> up_block_types = {"UpDecoderBlock2D"};
  std::vector<int64_t> block_out_channels = {64};
  std::vector<int64_t>
      decoder_block_out_channels;  // FLUX.2 small decoder; empty: block_out_channels
  int64_t layers_per_block = 1;
  std::string act_fn = "silu";
  int64_t latent_channels = 4;
  int64_t norm_num_groups = 32;
  int64_t sample_size = 32;
  double scaling_factor = 0.18215;
  std::optional<double> shift_factor;
  std::vector<double> latents_mean;  // empty, or one a latent channel
  std::vector<double> latents_std;
  bool force_upcast = true;
  bool use_quant_conv = true;
  bool use_post_quant_conv = true;
  bool mid_block_add_attention = true;
  // AutoencoderKLFlux2 only: latents are batch-normed patches.
  std::vector<int64_t> patch_size = {1, 1};
  double batch_norm_eps = 1e-4;

  bool is_flux2() const { return class_name == "AutoencoderKLFlux2"; }
  const std::vector<int64_t>& decoder_channels() const {
    return decoder_block_out_channels.empty() ? block_out_channels : decoder_block_out_channels;
  }
  // Picture pixels per latent pixel: 2^(levels - 1), times the patch size.
  int64_t spatial_factor() const;
  // Channels of (scaled) latents: latent_channels, times the patch area.
  int64_t channels() const;

  // Parses and checks (see validate). `file` names the source in errors. Unknown fields are
  // ignored, as diffusers does; block types and activations that are not implemented are refused by
  // name (kUnsupported).
  static AutoencoderKLConfig from_json(std::string_view json, const std::string& file);
  std::string to_json() const;  // as diffusers writes config.json: sorted keys, two spaces
  // Throws Error(kInvalidData) naming the field: zero, negative or absurd values, groups that do
  // not divide widths, …
  void validate(const std::string& file) const;

  friend bool operator==(const AutoencoderKLConfig&, const AutoencoderKLConfig&) = default;
};

// "flux", "sd1", "sd2", "sdxl", "sd3", "flux2": the config that every checkpoint of a family has.
// Throws Error(kInvalidArgument).
CALOTYPE_API AutoencoderKLConfig family_config(std::string_view family);
CALOTYPE_API const std::vector<std::string>& family_names();
// The family whose latent space (channels, factor, scaling, shift) a config has, or "custom".
CALOTYPE_API std::string family_of(const AutoencoderKLConfig& config);

// A model as found: the config and every VAE tensor under its diffusers name
// ("decoder.conv_in.weight"), attention weights as [C, C]. Cheap to copy; keeps the mapped files
// alive.
struct CALOTYPE_API Model {
  AutoencoderKLConfig config;
  bool config_inferred = false;  // from shapes and names, since the source has no config
  std::string family;            // see family_of
  std::string source;            // "embedded", or the path(s) as a person would name them
  std::string container;         // "embedded", "diffusers", "safetensors", "gguf", "ollama"
  std::string keys;              // "diffusers" or "original": the naming scheme found
  std::map<std::string, TensorView> tensors;
  std::vector<std::shared_ptr<const void>> storage;  // what `tensors` points into
  // `tensors` lie in read-only mappings of files, so that pages that were read may be dropped.
  bool mapped = false;
};

struct LoadOptions {
  // Whose latent space the model has, whatever its config says or would be inferred; refused where
  // the tensors contradict it.
  std::string family = {};
  bool verify = false;  // check digests where the container has them
};

// `name`: empty for the embedded model; else, in this order, a path that exists, a Hugging Face
// repo id in the local cache, an Ollama name. Checks the container, not the network: AutoencoderKL
// checks names and shapes of what it uses.
CALOTYPE_API Model load_model(const std::string& name = "", const LoadOptions& options = {});

// A model from weights in memory, under the names that files have (diffusers or original ones, bare
// or prefixed). `storage` keeps what `tensors` points into. `config_json`: the text of a
// config.json; without it the config is inferred, as load_model does. `source` is Model::source and
// names the tensors in errors.
CALOTYPE_API Model model_from_tensors(std::map<std::string, TensorView> tensors,
                                      std::optional<std::string> config_json,
                                      std::vector<std::shared_ptr<const void>> storage,
                                      const std::string& source, const LoadOptions& options = {});

struct ModelEntry {
  std::string name = {};       // what --model takes
  std::string container = {};  // "embedded", "ollama", "hub"
  std::string path = {};
  std::string family = {};  // empty where it could not be read; `problem` says why
  std::string problem = {};
  int64_t bytes = 0;
};
// The embedded model, the Ollama store's and the hub cache's models that have a VAE.
CALOTYPE_API std::vector<ModelEntry> list_models();

enum class ModelFormat { kDiffusersFolder, kSafetensors, kGguf, kOllama };

struct ConvertOptions {
  ModelFormat format = ModelFormat::kSafetensors;
  bool original_keys = false;  // safetensors and gguf: LDM/BFL names
  // F32, F16, BF16 (GGUF also Q8_0); default: the source's own, bytes kept. FLUX.2's batch-norm
  // statistics keep their own always, since the latent space is made of them.
  std::optional<DType> dtype = {};
  bool overwrite = false;                     // a folder or Ollama tag that exists
  std::function<bool(double)> progress = {};  // fraction done; false cancels
};
// Writes `model` to `target` (a folder, a file, or an Ollama name) with its config. Files appear
// whole or not at all.
CALOTYPE_API void convert_model(const Model& model, const std::string& target,
                                const ConvertOptions& options);

}  // namespace calotype
