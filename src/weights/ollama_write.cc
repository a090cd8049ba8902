#include <filesystem>
#include <utility>
#include <vector>

#include "core/cat.h"
#include "core/file.h"
#include "core/sha256.h"
#include "weights/json.h"
#include "weights/ollama.h"

namespace calotype {
namespace {

namespace fs = std::filesystem;

constexpr const char* kManifestType = "application/vnd.docker.distribution.manifest.v2+json";
constexpr const char* kImageConfigType = "application/vnd.docker.container.image.v1+json";
constexpr const char* kTensorType = "application/vnd.ollama.image.tensor";
constexpr const char* kJsonType = "application/vnd.ollama.image.json";
// The first Ollama that reads models of tensor blobs.
constexpr const char* kRequires = "0.19.0";

using Content = std::function<void(const ByteSink&)>;

void make_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) {
    fail(ErrorCode::kIo, folder.string(), ": the folder cannot be made: ", error.message());
  }
}

// A blob that was damaged may still have its size.
bool is_whole(const fs::path& blob, int64_t size, const std::string& hex) {
  std::error_code error;
  if (!fs::is_regular_file(blob, error)) return false;
  const auto mapped = MappedFile::open(blob.string());
  return mapped->bytes().size() == static_cast<size_t>(size) && sha256_hex(mapped->bytes()) == hex;
}

// The folder of blobs, and those that are new: they go again where the model does not come about,
// since no manifest would name them.
class Blobs {
 public:
  explicit Blobs(fs::path folder) : folder_(std::move(folder)) {}
  ~Blobs() {
    std::error_code ignored;
    for (const fs::path& path : added_) fs::remove(path, ignored);
  }
  Blobs(const Blobs&) = delete;
  Blobs& operator=(const Blobs&) = delete;

  fs::path operator/(const std::string& name) const { return folder_ / name; }
  void add(const fs::path& path) { added_.push_back(path); }
  void keep() { added_.clear(); }

 private:
  fs::path folder_;
  std::vector<fs::path> added_;
};

// Names a blob by its content: the first pass hashes, the second writes what is not there yet.
OllamaLayer write_blob(Blobs& blobs, const char* media_type, const std::string& name,
                       const Content& content) {
  OllamaLayer layer{media_type, "", name, 0};
  Sha256 hash;
  content([&](std::span<const std::byte> bytes) {
    hash.update(bytes);
    layer.size += static_cast<int64_t>(bytes.size());
  });
  const std::string hex = hash.hex();
  layer.digest = "sha256:" + hex;
  const fs::path path = blobs / ("sha256-" + hex);
  if (is_whole(path, layer.size, hex)) return layer;
  std::error_code ignored;
  const bool is_new = !fs::exists(path, ignored);
  AtomicFile file(path.string());
  content([&](std::span<const std::byte> bytes) { file.write(bytes); });
  file.commit();
  if (is_new) blobs.add(path);
  return layer;
}

OllamaLayer write_text(Blobs& blobs, const char* media_type, const std::string& name,
                       const std::string& text) {
  return write_blob(blobs, media_type, name,
                    [&](const ByteSink& sink) { sink(std::as_bytes(std::span(text))); });
}

nlohmann::ordered_json to_json(const OllamaLayer& layer) {
  nlohmann::ordered_json json = {
      {"mediaType", layer.media_type}, {"digest", layer.digest}, {"size", layer.size}};
  if (!layer.name.empty()) json["name"] = layer.name;
  return json;
}

std::string model_index(const std::string& config, const std::vector<SafetensorsEntry>& entries) {
  int64_t parameters = 0;
  for (const SafetensorsEntry& entry : entries) parameters += element_count(entry.shape);
  const Json json = {{"architecture", parse_json(config, "the config")["_class_name"]},
                     {"parameter_count", parameters},
                     {"quantization", ""}};
  return json.dump(4);
}

}  // namespace

void write_ollama_model(const OllamaName& name, const std::string& config,
                        const std::vector<SafetensorsEntry>& entries, bool overwrite,
                        const std::function<void(int64_t done, int64_t total)>& progress) {
  const std::string store = ollama_store_folder();
  if (store.empty()) {
    fail(ErrorCode::kNotFound, "there is no Ollama store: neither OLLAMA_MODELS nor HOME is set");
  }
  const fs::path manifest = name.manifest_path(store), folder = fs::path(store) / "blobs";
  if (std::error_code ignored; fs::exists(manifest, ignored) && !overwrite) {
    fail(ErrorCode::kIo, manifest.string(), ": the Ollama model ", name.short_form(),
         " exists already; overwrite it with --force");
  }
  make_folder(folder);
  make_folder(manifest.parent_path());
  Blobs blobs(folder);
  auto layers = nlohmann::ordered_json::array();
  int64_t total = 0, done = 0;
  for (const SafetensorsEntry& entry : entries) total += byte_count(entry.dtype, entry.shape);
  for (const SafetensorsEntry& entry : entries) {
    SafetensorsEntry named = entry;
    named.name = "vae/" + entry.name;
    layers.push_back(to_json(write_blob(blobs, kTensorType, named.name, [&](const ByteSink& sink) {
      write_safetensors_to(sink, {}, {named});
    })));
    done += byte_count(entry.dtype, entry.shape);
    if (progress) progress(done, total);
  }
  const std::string index = model_index(config, entries);
  layers.push_back(to_json(write_text(blobs, kJsonType, "model_index.json", index)));
  layers.push_back(to_json(write_text(blobs, kJsonType, "vae/config.json", config)));
  const nlohmann::ordered_json image = {
      {"model_format", "safetensors"}, {"requires", kRequires}, {"capabilities", {"image"}}};
  const OllamaLayer image_layer = write_text(blobs, kImageConfigType, "", image.dump());
  const nlohmann::ordered_json json = {{"schemaVersion", 2},
                                       {"mediaType", kManifestType},
                                       {"config", to_json(image_layer)},
                                       {"layers", layers}};
  write_file(manifest.string(), json.dump());  // last: it makes the model appear
  blobs.keep();
}

}  // namespace calotype
