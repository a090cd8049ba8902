// Small autoencoders of random shape and weights.
#pragma once

#include <cstdint>
#include <string>

#include "calotype/autoencoder_kl.h"
#include "support/random.h"

namespace calotype::test {

// Any AutoencoderKL or AutoencoderKLFlux2 of up to `levels` levels; widths up to `width`, most of
// them no multiple of a vector.
AutoencoderKLConfig random_config(Random& random, int64_t levels = 4, int64_t width = 48);

// Two levels, 2 layers, widths 8 and 12 (4 groups), 4 latent channels, attention, quant convs.
AutoencoderKLConfig small_config();

// The same as AutoencoderKLFlux2.
AutoencoderKLConfig small_flux2_config();

// A model whose tensors all show the same zeros: it can be planned and counted at any size.
Model model_of_zeros(const AutoencoderKLConfig& config);

std::string describe(const AutoencoderKLConfig& config);

}  // namespace calotype::test
