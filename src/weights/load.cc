// load_model: which container a name stands for, and from what it holds to a Model.
#include <filesystem>

#include "calotype/model_source.h"
#include "core/cat.h"
#include "weights/embedded.h"
#include "weights/hub_cache.h"
#include "weights/infer.h"
#include "weights/names.h"
#include "weights/ollama.h"
#include "weights/safetensors.h"
#include "weights/source.h"

namespace calotype {
namespace {

namespace fs = std::filesystem;

// Names only; a checkpoint's tensors that Calotype cannot read count too.
std::vector<std::string> names_of(const Source& source) {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : source.tensors) names.push_back(name);
  for (const auto& [name, dtype] : source.unreadable) names.push_back(name);
  return names;
}

std::vector<std::string> without_prefix(const std::vector<std::string>& names,
                                        const std::string& prefix) {
  std::vector<std::string> rest;
  for (const std::string& name : names) {
    if (name.starts_with(prefix)) rest.push_back(name.substr(prefix.size()));
  }
  return rest;
}

TensorView as_matrix(TensorView view) {
  if (view.shape.size() == 4 && view.shape[2] == 1 && view.shape[3] == 1) view.shape.resize(2);
  return view;
}

void check_readable(const Source& source, const std::string& name, DType dtype) {
  if (is_weight_dtype(dtype)) return;
  fail(ErrorCode::kInvalidData, source.file, ": the tensor \"", name, "\" has the dtype ",
       dtype_name(dtype), ", but weights are F32, F16, BF16, F64, F8_E4M3, F8_E5M2 or Q8_0");
}

// The autoencoder's tensors of `source` under their diffusers names.
void take_tensors(const Source& source, Model& model) {
  const std::vector<std::string> names = names_of(source);
  const std::string prefix = vae_prefix(names);
  const int levels = decoder_levels(without_prefix(names, prefix));
  for (const auto& [name, dtype] : source.unreadable) {
    if (!name.starts_with(prefix)) continue;
    fail(ErrorCode::kUnsupported, source.file, ": the tensor \"", name, "\" has the dtype ", dtype,
         ", which is not implemented; F32, F16, BF16, F8_E4M3, F8_E5M2 and Q8_0 are");
  }
  model.keys = "diffusers";
  for (const auto& [name, view] : source.tensors) {
    if (!name.starts_with(prefix)) continue;
    const std::string_view rest = std::string_view(name).substr(prefix.size());
    if (is_training_leftover(rest)) continue;
    check_readable(source, name, view.dtype);
    if (is_original_name(rest)) model.keys = "original";
    const std::string renamed = diffusers_name(rest, levels);
    const TensorView kept = is_attention_weight(renamed) ? as_matrix(view) : view;
    if (!model.tensors.emplace(renamed, kept).second) {
      fail(ErrorCode::kInvalidData, source.file, ": the tensor \"", name,
           "\" is there under another name too: both stand for \"", renamed, "\"");
    }
  }
}

}  // namespace

Model make_model(Source source, const LoadOptions& options) {
  Model model;
  model.mapped = true;  // whatever the container
  take_tensors(source, model);
  if (source.config) {
    model.config = AutoencoderKLConfig::from_json(*source.config, source.config_file);
    if (!options.family.empty()) {
      apply_family(model.tensors, options.family, source.file, model.config);
    }
  } else {
    model.config_inferred = true;
    model.config =
        infer_config(model.tensors, options.family, family_hint(source.tensors), source.file);
    if (options.family.empty()) apply_edm_statistics(source.tensors, model.config);
    model.config.validate(source.file + " (its config, inferred)");
  }
  model.family = family_of(model.config);
  model.source = std::move(source.name);
  model.container = std::move(source.container);
  model.storage = std::move(source.storage);
  return model;
}

Source read_embedded_source() {
  const std::optional<EmbeddedModel> embedded = embedded_model();
  if (!embedded) {
    fail(ErrorCode::kNotFound,
         "this build has no embedded model (CALOTYPE_EMBEDDED_MODEL was off); name one: a file, a "
         "folder, a Hugging Face repo id or an Ollama name");
  }
  Source source;
  source.container = source.name = "embedded";
  source.file = source.config_file = "the embedded model";
  source.tensors = parse_safetensors(embedded->weights, source.file).tensors;
  source.config = std::string(embedded->config);
  return source;
}

namespace {

// A name that can only be meant as a path: its absence is not worth a search elsewhere.
bool looks_like_path(const std::string& name) {
  const std::string suffix = fs::path(name).extension().string();
  return name.starts_with('/') || name.starts_with("./") || name.starts_with("../") ||
         name.starts_with('~') || name.ends_with('/') || suffix == ".safetensors" ||
         suffix == ".gguf" || suffix == ".json";
}

[[noreturn]] void not_found(const std::string& name) {
  if (looks_like_path(name)) {
    fail(ErrorCode::kNotFound, name, ": there is no such file or folder");
  }
  fail(ErrorCode::kNotFound, "there is no model \"", name,
       "\": no file or folder, no Hugging Face repo in ", hub_cache_folder(),
       ", no Ollama model in ", ollama_store_folder(), " has this name");
}

Source find_source(const std::string& name, const LoadOptions& options) {
  std::error_code ignored;
  if (fs::is_directory(name, ignored)) return read_diffusers_folder(name, options);
  if (fs::exists(name, ignored)) return read_file_source(name, options);
  if (looks_like_path(name)) not_found(name);
  const std::optional<std::string> snapshot = find_hub_snapshot(name);
  if (snapshot && snapshot_has_vae(*snapshot)) return read_hub_snapshot(*snapshot, options);
  if (const auto ollama = OllamaName::parse(name); ollama && !ollama_store_folder().empty()) {
    const std::string manifest = ollama->manifest_path(ollama_store_folder());
    if (fs::is_regular_file(manifest, ignored)) return read_ollama_manifest(manifest, options);
  }
  if (snapshot) return read_hub_snapshot(*snapshot, options);  // says what it misses
  not_found(name);
}

}  // namespace

Model load_model(const std::string& name, const LoadOptions& options) {
  if (!options.family.empty()) family_config(options.family);  // refuses what is no family
  return make_model(name.empty() ? read_embedded_source() : find_source(name, options), options);
}

}  // namespace calotype
