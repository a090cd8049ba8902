// The model inside the library: models/mini.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string_view>

namespace calotype {

struct EmbeddedModel {
  std::string_view config;             // a diffusers config.json
  std::span<const std::byte> weights;  // a safetensors file
};
// Nothing where the library was built without (CALOTYPE_EMBEDDED_MODEL=OFF).
std::optional<EmbeddedModel> embedded_model();

}  // namespace calotype
