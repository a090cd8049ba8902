// Ollama manifests, and names as a user or a layer may spell them.
#include <cstdlib>

#include "fuzz_bytes.h"
#include "weights/ollama.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  calotype::fuzz_bytes(data, size, [&](std::span<const std::byte>) {
    const auto layers = calotype::parse_ollama_manifest(text, "manifest");
    calotype::has_vae_layers(layers);
    for (const calotype::OllamaLayer& layer : layers) {
      // What becomes part of a path must not lead out of the store.
      if (layer.digest.find_first_of("/.") != std::string::npos) std::abort();
      calotype::OllamaName::parse(layer.name);
    }
  });
  if (const auto name = calotype::OllamaName::parse(text)) {
    if (name->manifest_path("/store").find("..") != std::string::npos) std::abort();
    const auto again = calotype::OllamaName::parse(name->short_form());
    if (!again || again->manifest_path("") != name->manifest_path("")) std::abort();
  }
  return 0;
}
