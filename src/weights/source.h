// What a container holds, before names are mapped and a config is chosen; and how each is read.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "calotype/model_source.h"

namespace calotype {

struct Source {
  std::string container;  // as in Model
  std::string name;       // Model::source
  std::string file;       // what errors about tensors name
  std::map<std::string, TensorView> tensors;
  std::map<std::string, std::string> unreadable;  // name -> dtype that Calotype cannot read
  std::optional<std::string> config;              // the text of a config.json
  std::string config_file;                        // what errors about the config name
  std::vector<std::shared_ptr<const void>> storage;
};

// A JSON file, of at most 16 MiB.
std::string read_text_file(const std::string& path);

// The key of a config.json in the metadata of safetensors and GGUF files.
inline constexpr const char* kConfigKey = "calotype.config";

// A regular file: safetensors, GGUF or an Ollama manifest, told apart by what is in it.
Source read_file_source(const std::string& path, const LoadOptions& options);
// options.verify: files that lie in the hub cache are checked against the SHA-256 that names them.
Source read_safetensors_source(const std::string& path, const LoadOptions& options);
Source read_gguf_source(const std::string& path, const LoadOptions& options);
Source read_embedded_source();
// A folder with config.json and weights, or one that has them in its vae/.
Source read_diffusers_folder(const std::string& path, const LoadOptions& options);
// Throws Error(kUnsupported): a pickle runs code when it is read.
[[noreturn]] void refuse_pickle(const std::string& path);
// True where a folder, or its vae/, holds weights that read_diffusers_folder would read.
bool has_diffusers_weights(const std::string& path);
// Names of the files in the folder itself that are a model's weights: of any precision, pickles
// too, indexes and the shards that they name.
std::set<std::string> diffusers_weight_files(const std::string& path);

// Selects the autoencoder's tensors, gives them their diffusers names, finds or infers the config.
Model make_model(Source source, const LoadOptions& options);

}  // namespace calotype
