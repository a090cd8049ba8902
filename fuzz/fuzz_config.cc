// A config.json: what is accepted must print as itself, and describe a network of finite size.
#include <cstdlib>

#include "calotype/autoencoder_kl.h"
#include "fuzz_bytes.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  return calotype::fuzz_bytes(data, size, [&](std::span<const std::byte>) {
    const auto config = calotype::AutoencoderKLConfig::from_json(text, "config.json");
    const auto again = calotype::AutoencoderKLConfig::from_json(config.to_json(), "again.json");
    if (!(again == config) || config.spatial_factor() < 1 || config.channels() < 1) std::abort();
    calotype::family_of(config);
    for (const auto& [name, shape] : calotype::network_tensors(config)) {
      if (calotype::element_count(shape) < 1) std::abort();
    }
  });
}
