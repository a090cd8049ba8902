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
    auto bytes =
        std::make_shared<std::vector<std::byte>>(static_cast<size_t>(byte_count(dtype, shape)));
    // In parts, so that the heap never holds a whole tensor twice. Of Q8_0 they are whole blocks.
    constexpr int64_t kPart = 4096;
    std::array<float, kPart> values = {};
    const int64_t size = element_count(shape);
    for (int64_t first = 0; first < size; first += kPart) {
      const int64_t count = std::min(kPart, size - first);
      for (int64_t i = 0; i < count; i += 4) {
        const std::array<uint32_t, 4> bits =
            random_bits(seed, stream, static_cast<uint64_t>((first + i) / 4));
        for (size_t k = 0; k < 4; k++) {
          values[static_cast<size_t>(i) + k] =
              static_cast<float>(mean + bound * (bits[k] * 0x1p-31 - 1));
        }
      }
      convert_elements({values.data(), static_cast<size_t>(count)}, dtype,
                       bytes->data() + byte_count(dtype, {first}));
    }
    stream++;
    model.tensors[name] = {dtype, shape, bytes->data()};
    model.storage.push_back(std::move(bytes));
  }
  return model;
}

}  // namespace calotype
