// Encodes a photograph into latents and develops them again: roundtrip IN.png OUT.png
#include <calotype/autoencoder_kl.h>
#include <calotype/image.h>

#include <iostream>

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  try {
    const auto vae = calotype::AutoencoderKL::load();  // the embedded model
    const calotype::Tensor photo = calotype::read_image(argv[1]);
    const calotype::Tensor padded = calotype::pad_to_factor(photo, vae.config().spatial_factor());
    const calotype::Tensor latents = vae.scale(vae.encode(padded).mode());
    const calotype::Tensor picture =
        calotype::crop(vae.decode(latents), photo.dim(1), photo.dim(2));
    calotype::write_image(picture, argv[2]);
    std::cout << calotype::psnr(photo, picture) << " dB\n";
  } catch (const calotype::Error& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
