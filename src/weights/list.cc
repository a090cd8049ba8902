// list_models: what this machine has.
#include <filesystem>

#include "calotype/model_source.h"
#include "core/cat.h"
#include "weights/embedded.h"
#include "weights/hub_cache.h"
#include "weights/ollama.h"
#include "weights/source.h"

namespace calotype {
namespace {

// Reads `source` far enough to tell its family; what goes wrong becomes the entry's problem.
template <class Read>
void describe(ModelEntry& entry, Read read) {
  try {
    const Model model = make_model(read(), {});
    entry.family = model.family;
    for (const auto& [name, view] : model.tensors) {
      entry.bytes += byte_count(view.dtype, view.shape);
    }
  } catch (const Error& error) {
    entry.problem = error.what();
  }
}

void list_embedded(std::vector<ModelEntry>& entries) {
  if (!embedded_model()) return;
  ModelEntry entry{.container = "embedded"};
  describe(entry, read_embedded_source);
  entries.push_back(std::move(entry));
}

void list_ollama(std::vector<ModelEntry>& entries) {
  const std::string store = ollama_store_folder();
  for (const OllamaName& name : list_ollama_models()) {
    ModelEntry entry{
        .name = name.short_form(), .container = "ollama", .path = name.manifest_path(store)};
    try {
      const std::string text = read_text_file(entry.path);
      if (!has_vae_layers(parse_ollama_manifest(text, entry.path))) continue;
      describe(entry, [&] { return read_ollama_manifest(entry.path, {}); });
    } catch (const Error& error) {
      entry.problem = error.what();
    }
    entries.push_back(std::move(entry));
  }
}

void list_hub(std::vector<ModelEntry>& entries) {
  for (const std::string& repo : list_hub_repos()) {
    const std::optional<std::string> snapshot = find_hub_snapshot(repo);
    if (!snapshot || !snapshot_has_vae(*snapshot)) continue;
    ModelEntry entry{.name = repo, .container = "hub", .path = *snapshot};
    describe(entry, [&] { return read_hub_snapshot(*snapshot, {}); });
    entries.push_back(std::move(entry));
  }
}

}  // namespace

std::vector<ModelEntry> list_models() {
  std::vector<ModelEntry> entries;
  list_embedded(entries);
  list_ollama(entries);
  list_hub(entries);
  return entries;
}

}  // namespace calotype
