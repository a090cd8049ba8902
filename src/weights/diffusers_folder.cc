// Folders as diffusers writes them: config.json, and weights in one safetensors file or in shards.
#include <algorithm>
#include <array>
#include <filesystem>
#include <set>
#include <span>

#include "core/cat.h"
#include "weights/json.h"
#include "weights/source.h"

namespace calotype {
namespace {

namespace fs = std::filesystem;

// In the order of preference: full precision before fp16, one file before shards.
constexpr std::array kWeights = {"diffusion_pytorch_model.safetensors",
                                 "diffusion_pytorch_model.fp16.safetensors"};
constexpr std::array kIndexes = {"diffusion_pytorch_model.safetensors.index.json",
                                 "diffusion_pytorch_model.safetensors.index.fp16.json",
                                 "diffusion_pytorch_model.fp16.safetensors.index.json"};
constexpr std::array kPickles = {"diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.bin"};
constexpr std::array kPickleIndexes = {"diffusion_pytorch_model.bin.index.json",
                                       "diffusion_pytorch_model.bin.index.fp16.json",
                                       "diffusion_pytorch_model.fp16.bin.index.json"};

template <size_t N>
std::string first_of(const fs::path& folder, const std::array<const char*, N>& names) {
  for (const char* name : names) {
    std::error_code ignored;
    if (fs::is_regular_file(folder / name, ignored)) return (folder / name).string();
  }
  return "";
}

bool has_weights(const fs::path& folder) {
  return !first_of(folder, kWeights).empty() || !first_of(folder, kIndexes).empty();
}

// A shard lies beside its index: a name with a folder in it could point anywhere.
bool is_plain_name(const std::string& shard) {
  return !shard.empty() && shard != "." && shard != ".." &&
         shard.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
}

void check_shard_name(const std::string& shard, const std::string& index) {
  if (!is_plain_name(shard)) {
    fail(ErrorCode::kInvalidData, index, ": the shard ", json_kind(Json(shard)),
         " is not the name of a file beside it");
  }
}

void take_tensors(Source& shard, const std::map<std::string, std::string>& shard_of,
                  const std::string& name, Source& source) {
  for (auto& [tensor, view] : shard.tensors) {
    const auto expected = shard_of.find(tensor);
    if (expected != shard_of.end() && expected->second == name) source.tensors[tensor] = view;
  }
  source.unreadable.merge(shard.unreadable);
  source.storage.insert(source.storage.end(), shard.storage.begin(), shard.storage.end());
}

Source read_shards(const std::string& index, const LoadOptions& options) {
  const Json json = parse_json(read_text_file(index), index);
  if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object()) {
    fail(ErrorCode::kInvalidData, index, ": has no object \"weight_map\"");
  }
  std::map<std::string, std::string> shard_of;
  std::map<std::string, bool> shards;
  for (const auto& [tensor, shard] : json["weight_map"].items()) {
    const std::string& name = json_string(shard, cat(index, ": the shard of \"", tensor, "\""));
    check_shard_name(name, index);
    shard_of[tensor] = name;
    shards[name] = true;
  }
  Source source;
  source.file = index;
  for (const auto& [name, used] : shards) {
    Source shard =
        read_safetensors_source((fs::path(index).parent_path() / name).string(), options);
    take_tensors(shard, shard_of, name, source);
  }
  for (const auto& [tensor, shard] : shard_of) {
    if (!source.tensors.contains(tensor) && !source.unreadable.contains(tensor)) {
      fail(ErrorCode::kInvalidData, index, ": the tensor \"", tensor, "\" is not in the file ",
           shard, ", as it says");
    }
  }
  return source;
}

// Adds the shards that an index names; one that cannot be read names none.
void add_shards(const std::string& index, std::set<std::string>& names) {
  try {
    const Json json = parse_json(read_text_file(index), index);
    if (!json.is_object() || !json.contains("weight_map")) return;
    for (const Json& shard : json["weight_map"]) {
      if (!shard.is_string()) continue;
      const std::string& name = shard.get_ref<const std::string&>();
      const bool holds_weights = name.ends_with(".safetensors") || name.ends_with(".bin");
      if (is_plain_name(name) && holds_weights) names.insert(name);
    }
  } catch (const Error&) {
    return;
  }
}

[[noreturn]] void no_weights(const std::string& path, const fs::path& folder) {
  std::string pickle = first_of(folder, kPickles);
  if (pickle.empty()) pickle = first_of(fs::path(path) / "vae", kPickles);
  if (!pickle.empty()) refuse_pickle(pickle);
  fail(ErrorCode::kNotFound, path, ": holds no autoencoder: neither it nor its vae/ has a file ",
       kWeights[0]);
}

}  // namespace

bool has_diffusers_weights(const std::string& path) {
  return has_weights(path) || has_weights(fs::path(path) / "vae");
}

std::set<std::string> diffusers_weight_files(const std::string& path) {
  std::set<std::string> names(kWeights.begin(), kWeights.end());
  names.insert(kPickles.begin(), kPickles.end());
  for (const std::span<const char* const> indexes :
       {std::span<const char* const>(kIndexes), std::span<const char* const>(kPickleIndexes)}) {
    for (const char* index : indexes) {
      names.insert(index);
      std::error_code ignored;
      const fs::path file = fs::path(path) / index;
      if (fs::is_regular_file(file, ignored)) add_shards(file.string(), names);
    }
  }
  std::erase_if(names, [&](const std::string& name) {
    std::error_code ignored;
    const fs::file_type type = fs::symlink_status(fs::path(path) / name, ignored).type();
    return type != fs::file_type::regular && type != fs::file_type::symlink;
  });
  return names;
}

Source read_diffusers_folder(const std::string& path, const LoadOptions& options) {
  // A pipeline's folder has a vae/; weights of its own would be those of another network.
  const fs::path vae = fs::path(path) / "vae";
  const fs::path folder = has_weights(vae) ? vae : fs::path(path);
  const std::string weights = first_of(folder, kWeights), index = first_of(folder, kIndexes);
  if (weights.empty() && index.empty()) no_weights(path, folder);
  Source source =
      weights.empty() ? read_shards(index, options) : read_safetensors_source(weights, options);
  source.container = "diffusers";
  source.name = folder.string();
  const fs::path config = folder / "config.json";
  if (std::error_code ignored; fs::exists(config, ignored)) {
    source.config_file = config.string();
    source.config = read_text_file(source.config_file);
  }
  return source;
}

}  // namespace calotype
