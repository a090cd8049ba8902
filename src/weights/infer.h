// The config of a checkpoint that comes without one, from the shapes and names of its tensors.
#pragma once

#include <map>
#include <string>

#include "calotype/model_source.h"

namespace calotype {

using TensorMap = std::map<std::string, TensorView>;

// The family that the other tensors of a full checkpoint tell ("sdxl" by conditioner.embedders, …);
// empty where there are none.
std::string family_hint(const TensorMap& checkpoint);

// Playground v2.5 is an SDXL whose latents have statistics of their own, which its checkpoint holds
// as edm_mean and edm_std: puts them into `config`. Others stay as they are.
void apply_edm_statistics(const TensorMap& checkpoint, AutoencoderKLConfig& config);

// The latent space of a family over that of a config, which a conversion may have guessed wrong:
// scaling, shift and statistics, and the class with its patches. Throws Error(kInvalidArgument)
// where the tensors cannot be of the family.
void apply_family(const TensorMap& vae, const std::string& family, const std::string& file,
                  AutoencoderKLConfig& config);

// `vae`: the autoencoder's tensors under diffusers names. `family` as the user chose it, or empty;
// `hint` as family_hint gave it. Without either, 32 channels with batch norm are FLUX.2's, 16 are
// FLUX.1's, 4 are SD 1's; other numbers get the defaults of diffusers' class. Throws
// Error(kInvalidData, kUnsupported) naming the tensor that tells too little, and
// Error(kInvalidArgument) where the tensors are not of the family that was chosen.
AutoencoderKLConfig infer_config(const TensorMap& vae, const std::string& family,
                                 const std::string& hint, const std::string& file);

}  // namespace calotype
