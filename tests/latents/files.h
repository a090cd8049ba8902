// Latent files made in memory, as other programs write them.
#pragma once

#include <string>
#include <vector>

#include "calotype/latents.h"
#include "support/random.h"
#include "weights/safetensors.h"

namespace calotype::test {

using Bytes = std::vector<std::byte>;

// A model of 4 latent channels and the factor 8 (Stable Diffusion), of 16 (FLUX.1), and FLUX.2's
// of 2x2 patches of 32.
inline AutoencoderKLConfig config_of(int64_t latent_channels, bool flux2 = false) {
  AutoencoderKLConfig config;
  config.block_out_channels = {128, 256, 512, 512};
  config.latent_channels = latent_channels;
  if (flux2) {
    config.class_name = "AutoencoderKLFlux2";
    config.patch_size = {2, 2};
  }
  return config;
}

// One or more tensors, given in float32 and stored as `dtype`.
inline Bytes file_of(const std::vector<std::pair<std::string, const Tensor*>>& tensors,
                     const std::map<std::string, std::string>& metadata = {},
                     DType dtype = DType::kF32) {
  std::vector<Bytes> stored;
  std::vector<SafetensorsEntry> entries;
  for (const auto& [name, tensor] : tensors) {
    stored.emplace_back(static_cast<size_t>(byte_count(dtype, tensor->shape())));
    convert_elements(tensor->values(), dtype, stored.back().data());
  }
  for (size_t i = 0; i < tensors.size(); i++) {
    entries.push_back(SafetensorsEntry::of(tensors[i].first,
                                           {dtype, tensors[i].second->shape(), stored[i].data()}));
  }
  return safetensors_bytes(metadata, std::move(entries));
}

inline Bytes file_of(const Tensor& latents, const std::map<std::string, std::string>& metadata = {},
                     DType dtype = DType::kF32) {
  return file_of({{"latents", &latents}}, metadata, dtype);
}

inline bool same_values(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && std::equal(a.data(), a.data() + a.size(), b.data());
}

}  // namespace calotype::test
