// The first byte chooses the model and the options, the rest is the file.
#include "calotype/latents.h"
#include "fuzz_bytes.h"

namespace {

calotype::AutoencoderKLConfig config_of(unsigned choice) {
  calotype::AutoencoderKLConfig config;
  config.block_out_channels = {32, 64, 128, 128};
  config.latent_channels = choice == 0 ? 4 : choice == 1 ? 16 : 32;
  if (choice == 3) {
    config.class_name = "AutoencoderKLFlux2";
    config.patch_size = {2, 2};
  }
  return config;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const unsigned choice = data[0];
  calotype::ReadLatentsOptions options;
  if ((choice & 4) != 0) options.layout = calotype::LatentLayout::kNhwc;
  if ((choice & 8) != 0) options.image_height = options.image_width = 32;
  options.unscaled = (choice & 16) != 0;
  return calotype::fuzz_bytes(data + 1, size - 1, [&](std::span<const std::byte> bytes) {
    calotype::decode_latents(bytes, "fuzz", config_of(choice & 3), options);
  });
}
