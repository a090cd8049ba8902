#include <algorithm>
#include <array>
#include <cmath>

#include "calotype/autoencoder_kl.h"
#include "core/cat.h"
#include "model/decoder.h"
#include "model/encoder.h"
#include "model/noise.h"
#include "model/tensor_source.h"

namespace calotype {

std::vector<std::pair<std::string, Shape>> network_tensors(const AutoencoderKLConfig& config) {
  config.validate("config");
  TensorDeclarations tensors;
  const Encoder encoder(tensors, config);
  const Decoder decoder(tensors, config);
  if (config.is_flux2()) {
    tensors.tensor("bn.running_mean", {config.channels()});
    tensors.tensor("bn.running_var", {config.channels()});
  }
  return tensors.list();
}

Model random_model(const AutoencoderKLConfig& config, uint64_t seed, DType dtype) {
  Model model;
  model.config = config;
  model.family = family_of(config);
  model.source = cat("random weights, seed ", seed);
  model.container = "random";
  model.keys = "diffusers";
  uint64_t stream = 0;
  for (const auto& [name, shape] : network_tensors(config)) {
    const bool weight = name.ends_with(".weight");
    // Uniform in +- 1 / sqrt(inputs), PyTorch's own initialisation; norms and variances are 1 +
    // noise.
    double mean = 0, bound = 0.2;
    if (weight && shape.size() > 1) {
      const int64_t inputs = element_count(shape) / shape[0];
      bound = 1 / std::sqrt(static_cast<double>(inputs));
    } else if (weight || name == "bn.running_var") {
      mean = 1;
    }
    std::vector<float> values(static_cast<size_t>(element_count(shape)));
    for (size_t i = 0; i < values.size(); i += 4) {
      const std::array<uint32_t, 4> bits = random_bits(seed, stream, i / 4);
      for (size_t k = 0; k < std::min<size_t>(4, values.size() - i); k++) {
        values[i + k] = static_cast<float>(mean + bound * (bits[k] * 0x1p-31 - 1));
      }
    }
    stream++;
    auto bytes =
        std::make_shared<std::vector<std::byte>>(static_cast<size_t>(byte_count(dtype, shape)));
    convert_elements(values, dtype, bytes->data());
    model.tensors[name] = {dtype, shape, bytes->data()};
    model.storage.push_back(std::move(bytes));
  }
  return model;
}

}  // namespace calotype
