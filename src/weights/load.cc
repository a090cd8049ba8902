// load_model: which container a name stands for, and from what it holds to a Model.
#include "calotype/model_source.h"
#include "core/cat.h"
#include "core/file.h"
#include "weights/embedded.h"
#include "weights/infer.h"
#include "weights/names.h"
#include "weights/safetensors.h"
#include "weights/source.h"

namespace calotype {
namespace {

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
  take_tensors(source, model);
  if (source.config) {
    model.config = AutoencoderKLConfig::from_json(*source.config, source.config_file);
  } else {
    model.config_inferred = true;
    model.config =
        infer_config(model.tensors, options.family, family_hint(source.tensors), source.file);
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
  source.container = source.name = source.file = "embedded";
  source.file = source.config_file = "the embedded model";
  source.tensors = parse_safetensors(embedded->weights, source.file).tensors;
  source.config = std::string(embedded->config);
  return source;
}

Source read_safetensors_source(const std::string& path) {
  const auto mapped = MappedFile::open(path);
  SafetensorsFile file = parse_safetensors(mapped->bytes(), path);
  Source source;
  source.container = "safetensors";
  source.name = source.file = path;
  source.tensors = std::move(file.tensors);
  source.unreadable = std::move(file.unreadable);
  if (const auto config = file.metadata.find(kConfigKey); config != file.metadata.end()) {
    source.config = config->second;
    source.config_file = cat(path, " (its metadata ", kConfigKey, ")");
  }
  source.storage.push_back(mapped);
  return source;
}

Model load_model(const std::string& name, const LoadOptions& options) {
  if (!options.family.empty()) family_config(options.family);  // refuses what is no family
  if (name.empty()) return make_model(read_embedded_source(), options);
  return make_model(read_safetensors_source(name), options);
}

}  // namespace calotype
