#include "weights/ollama.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <set>

#include "core/cat.h"
#include "core/file.h"
#include "core/sha256.h"
#include "weights/json.h"

namespace calotype {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxJson = size_t{16} << 20;
constexpr size_t kMaxPart = 128;  // characters of a part of a name
constexpr std::string_view kTensorType = "application/vnd.ollama.image.tensor";
constexpr std::string_view kVae = "vae/";
constexpr std::string_view kConfigName = "vae/config.json";
constexpr std::string_view kDigestPrefix = "sha256:";
constexpr size_t kDigestHex = 64;

bool is_alphanumeric(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

// A part of a name becomes the name of a folder or file: nothing in it may lead elsewhere.
bool is_part(std::string_view part, std::string_view also = "._-") {
  if (part.empty() || part.size() > kMaxPart || part.find("..") != std::string_view::npos) {
    return false;
  }
  if (!is_alphanumeric(part[0]) && part[0] != '_') return false;
  return std::ranges::all_of(
      part, [&](char c) { return is_alphanumeric(c) || also.find(c) != std::string_view::npos; });
}

bool is_digest(std::string_view digest) {
  if (!digest.starts_with(kDigestPrefix)) return false;
  digest.remove_prefix(kDigestPrefix.size());
  return digest.size() == kDigestHex && std::ranges::all_of(digest, [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

// A layer's name says which tensor it is; one that walks through folders is not Ollama's.
void check_layer_name(const std::string& name, const std::string& where) {
  for (const fs::path& part : fs::path(name)) {
    if (part == ".." || part == "/") {
      fail(ErrorCode::kInvalidData, where, " has the name ", json_kind(Json(name)),
           ", which leads out of the model");
    }
  }
}

OllamaLayer parse_layer(const Json& json, const std::string& where) {
  if (!json.is_object()) {
    fail(ErrorCode::kInvalidData, where, " should be an object, not ", json_kind(json));
  }
  const auto member = [&](const char* key) -> const Json& {
    const auto found = json.find(key);
    if (found == json.end()) fail(ErrorCode::kInvalidData, where, " has no \"", key, "\"");
    return *found;
  };
  OllamaLayer layer;
  layer.media_type = json_string(member("mediaType"), where + "'s mediaType");
  layer.digest = json_string(member("digest"), where + "'s digest");
  layer.size = json_integer(member("size"), where + "'s size");
  if (json.contains("name")) layer.name = json_string(json["name"], where + "'s name");
  check_layer_name(layer.name, where);
  if (!is_digest(layer.digest)) {
    fail(ErrorCode::kInvalidData, where, " has the digest ", json_kind(json["digest"]),
         ", which is not \"sha256:\" and 64 hexadecimal digits");
  }
  if (layer.size < 0) fail(ErrorCode::kInvalidData, where, " has the size ", layer.size);
  return layer;
}

// The store that a manifest lies in: the folder above it that has blobs/.
fs::path store_of(const std::string& manifest) {
  std::error_code ignored;
  fs::path folder = fs::absolute(manifest, ignored).parent_path();
  while (folder.has_relative_path()) {
    if (fs::is_directory(folder / "blobs", ignored)) return folder;
    folder = folder.parent_path();
  }
  return ollama_store_folder();
}

std::string blob_path(const fs::path& store, const std::string& digest) {
  return (store / "blobs" / cat("sha256-", digest.substr(kDigestPrefix.size()))).string();
}

class Reader {
 public:
  Reader(const std::string& manifest, bool verify)
      : manifest_(manifest), store_(store_of(manifest)), verify_(verify) {}

  std::shared_ptr<const MappedFile> open(const OllamaLayer& layer) const {
    const std::string path = blob_path(store_, layer.digest);
    std::error_code ignored;
    if (!fs::exists(path, ignored)) {
      fail(ErrorCode::kNotFound, manifest_, ": the blob of \"", layer.name, "\" is missing: ", path,
           "; pull the model again");
    }
    auto mapped = MappedFile::open(path);
    if (static_cast<uint64_t>(layer.size) != mapped->bytes().size()) {
      fail(ErrorCode::kInvalidData, path, ": the blob of \"", layer.name, "\" has ",
           mapped->bytes().size(), " bytes, but the manifest says ", layer.size,
           "; pull the model again");
    }
    if (verify_) check_digest(layer, path, mapped->bytes());
    return mapped;
  }

  void read_tensor(const OllamaLayer& layer, Source& source) const {
    const auto mapped = open(layer);
    const std::string& path = mapped->path();
    SafetensorsFile file = parse_safetensors(mapped->bytes(), path);
    const std::string name = layer.name.substr(kVae.size());
    if (file.tensors.size() + file.unreadable.size() != 1) {
      fail(ErrorCode::kUnsupported, path, ": the blob of \"", layer.name, "\" holds ",
           file.tensors.size() + file.unreadable.size(),
           " tensors, but one is expected: quantised tensors are not implemented");
    }
    const std::string& key =
        file.tensors.empty() ? file.unreadable.begin()->first : file.tensors.begin()->first;
    if (key != layer.name && key != name && key != "data") {
      fail(ErrorCode::kInvalidData, path, ": the blob of \"", layer.name, "\" holds the tensor \"",
           key, "\"");
    }
    if (file.tensors.empty()) {
      source.unreadable[name] = file.unreadable.begin()->second;
    } else {
      source.tensors[name] = file.tensors.begin()->second;
      source.storage.push_back(mapped);
    }
  }

 private:
  static void check_digest(const OllamaLayer& layer, const std::string& path,
                           std::span<const std::byte> bytes) {
    const std::string found = cat(kDigestPrefix, sha256_hex(bytes));
    if (found != layer.digest) {
      fail(ErrorCode::kInvalidData, path, ": the blob of \"", layer.name, "\" has the digest ",
           found, ", but the manifest says ", layer.digest, "; pull the model again");
    }
  }

  const std::string& manifest_;
  fs::path store_;
  bool verify_;
};

}  // namespace

std::string ollama_store_folder() {
  if (const char* store = std::getenv("OLLAMA_MODELS"); store != nullptr && *store != '\0') {
    return store;
  }
  const char* home = std::getenv("HOME");
  if (home == nullptr || *home == '\0') return "";
  return (fs::path(home) / ".ollama" / "models").string();
}

std::optional<OllamaName> OllamaName::parse(const std::string& text) {
  std::vector<std::string> parts{""};
  for (const char c : text) {
    if (c == '/') {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  if (parts.size() > 3) return std::nullopt;
  OllamaName name;
  name.model = parts.back();
  if (const size_t colon = name.model.find(':'); colon != std::string::npos) {
    name.tag = name.model.substr(colon + 1);
    name.model.resize(colon);
  }
  if (parts.size() >= 2) name.space = parts[parts.size() - 2];
  if (parts.size() == 3) name.host = parts[0];
  const bool valid =
      is_part(name.host, "._-:") && is_part(name.space) && is_part(name.model) && is_part(name.tag);
  return valid ? std::optional(name) : std::nullopt;
}

std::string OllamaName::short_form() const {
  const OllamaName usual;
  std::string text;
  if (host != usual.host) text += host + "/";
  if (host != usual.host || space != usual.space) text += space + "/";
  text += model;
  if (tag != usual.tag) text += ":" + tag;
  return text;
}

std::string OllamaName::manifest_path(const std::string& store) const {
  return (fs::path(store) / "manifests" / host / space / model / tag).string();
}

std::vector<OllamaLayer> parse_ollama_manifest(std::string_view text, const std::string& file) {
  const Json json = parse_json(text, file);
  const auto layers = json.is_object() ? json.find("layers") : json.end();
  if (!json.is_object() || layers == json.end() || !layers->is_array()) {
    fail(ErrorCode::kInvalidData, file, ": is not an Ollama manifest: it has no array \"layers\"");
  }
  std::vector<OllamaLayer> result;
  std::set<std::string> names;
  for (const Json& layer : *layers) {
    result.push_back(parse_layer(layer, cat(file, ": layer ", result.size())));
    const std::string& name = result.back().name;
    if (!name.empty() && !names.insert(name).second) {
      fail(ErrorCode::kInvalidData, file, ": has two layers named \"", name, "\"");
    }
  }
  return result;
}

bool has_vae_layers(const std::vector<OllamaLayer>& layers) {
  return std::ranges::any_of(layers, [](const OllamaLayer& layer) {
    return layer.media_type == kTensorType && layer.name.starts_with(kVae);
  });
}

Source read_ollama_manifest(const std::string& path, const LoadOptions& options) {
  const std::vector<OllamaLayer> layers = parse_ollama_manifest(read_text_file(path), path);
  if (!has_vae_layers(layers)) {
    fail(ErrorCode::kInvalidData, path,
         ": is the manifest of a model without an autoencoder: none of its ", layers.size(),
         " layers is a tensor named vae/…");
  }
  Source source;
  source.container = "ollama";
  source.name = source.file = path;
  const Reader reader(path, options.verify);
  for (const OllamaLayer& layer : layers) {
    if (layer.name == kConfigName) {
      const auto mapped = reader.open(layer);
      const auto bytes = mapped->bytes();
      if (bytes.size() > kMaxJson) {
        fail(ErrorCode::kInvalidData, mapped->path(), ": a config of ", bytes.size(), " bytes");
      }
      source.config.emplace(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      source.config_file = cat(mapped->path(), " (", kConfigName, ")");
    } else if (layer.media_type == kTensorType && layer.name.starts_with(kVae)) {
      reader.read_tensor(layer, source);
    }
  }
  return source;
}

std::vector<OllamaName> list_ollama_models() {
  std::vector<OllamaName> names;
  const std::string store = ollama_store_folder();
  if (store.empty()) return names;
  std::error_code ignored;
  const fs::path root = fs::path(store) / "manifests";
  for (auto entry = fs::recursive_directory_iterator(root, ignored);
       entry != fs::recursive_directory_iterator(); entry.increment(ignored)) {
    if (entry.depth() != 3 || !entry->is_regular_file(ignored)) continue;
    const fs::path path = fs::relative(entry->path(), root, ignored);
    auto name =
        OllamaName::parse(cat(path.parent_path().generic_string(), ":", path.filename().string()));
    if (name) names.push_back(std::move(*name));
  }
  std::ranges::sort(names, {}, &OllamaName::short_form);
  return names;
}

}  // namespace calotype
