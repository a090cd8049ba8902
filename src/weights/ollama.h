// Ollama's store: manifests/<host>/<namespace>/<name>/<tag> (JSON) and blobs/sha256-<hex>.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "weights/safetensors.h"
#include "weights/source.h"

namespace calotype {

// $OLLAMA_MODELS, else ~/.ollama/models; empty where there is no home.
std::string ollama_store_folder();

struct OllamaName {
  std::string host = "registry.ollama.ai";
  std::string space = "library";
  std::string model;
  std::string tag = "latest";

  // "z-image", "ns/name:tag", "host:5000/ns/name:tag". Nothing where it is no such name: empty
  // parts, "..", characters that are no part of names.
  static std::optional<OllamaName> parse(const std::string& text);
  std::string short_form() const;  // without what is the default
  std::string manifest_path(const std::string& store) const;
};

struct OllamaLayer {
  std::string media_type, digest, name;  // digest: "sha256:<hex>"
  int64_t size = 0;
};

// Layers of a manifest. Throws Error(kInvalidData) naming `file` and the layer: not JSON, no
// layers, digests that are no SHA-256, negative sizes.
std::vector<OllamaLayer> parse_ollama_manifest(std::string_view json, const std::string& file);

// True where the layers hold an autoencoder ("vae/…" tensors).
bool has_vae_layers(const std::vector<OllamaLayer>& layers);

// The autoencoder of a manifest: blobs are those of the store that the manifest lies in, else of
// ollama_store_folder. A blob's size is always checked, its digest where options.verify asks for
// it.
Source read_ollama_manifest(const std::string& path, const LoadOptions& options);

std::vector<OllamaName> list_ollama_models();

// Lays out blobs and manifest as `ollama create` does: one blob a tensor, keyed "vae/NAME", and
// vae/config.json. Blobs that are there already and have their digest are kept. Throws
// Error(kInvalidArgument) where the tag exists and `overwrite` is not set.
void write_ollama_model(const OllamaName& name, const std::string& config,
                        const std::vector<SafetensorsEntry>& entries, bool overwrite,
                        const std::function<void(int64_t done, int64_t total)>& progress);

}  // namespace calotype
