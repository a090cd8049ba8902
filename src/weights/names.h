// The names that one tensor of an autoencoder has in the files of the world.
//
// Inside Calotype a tensor has its diffusers name ("decoder.up_blocks.0.resnets.1.conv1.weight").
// The original LDM and BFL code says "decoder.up.3.block.1.conv1.weight", counting the decoder's
// levels from the other end.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "calotype/tensor.h"

namespace calotype {

// "first_stage_model.", "vae." or "": what stands before the autoencoder's names in a checkpoint
// that has these tensors.
std::string vae_prefix(const std::vector<std::string>& names);

// True where a name is of the original scheme and not of diffusers.
bool is_original_name(std::string_view name);
// Levels of the decoder, by the highest "decoder.up.N." (0: none).
int decoder_levels(const std::vector<std::string>& names);

// Original and older diffusers names to those of today; what has no other name stays as it is.
std::string diffusers_name(std::string_view name, int levels);
// The other way. The original FLUX.2 code keeps quant_conv in its encoder and post_quant_conv in
// its decoder.
std::string original_name(std::string_view name, int levels, bool flux2);

// True for the weights of attention projections: matrices, which the original scheme stores as 1x1
// convolutions.
bool is_attention_weight(std::string_view diffusers_name);

// Leftovers of training that no picture depends on: "bn.num_batches_tracked", "loss.…",
// "model_ema.…".
bool is_training_leftover(std::string_view name);

}  // namespace calotype
