// The decoder: latents to pictures.
#pragma once

#include <optional>
#include <vector>

#include "calotype/model_source.h"
#include "model/blocks.h"

namespace calotype {

// `layers_per_block + 1` resnets, then, but on the last level, nearest 2x upsampling and a
// convolution.
class UpDecoderBlock2D {
 public:
  UpDecoderBlock2D(TensorSource& tensors, const std::string& name, int64_t in, int64_t out,
                   bool upsample, const AutoencoderKLConfig& config);
  Activation forward(Graph& graph, Activation x) const;

 private:
  std::string name_;
  std::vector<ResnetBlock2D> resnets_;
  std::optional<Conv2d> upsampler_;
};

class Decoder {
 public:
  Decoder(TensorSource& tensors, const AutoencoderKLConfig& config);
  // z [h, w, latent_channels] -> pictures [h*f, w*f, out_channels] in about [-1, 1].
  // post_quant_conv included.
  Graph graph(int64_t height, int64_t width) const;

 private:
  std::optional<Conv2d> post_quant_conv_;
  Conv2d conv_in_;
  UNetMidBlock2D mid_block_;
  std::vector<UpDecoderBlock2D> up_blocks_;
  GroupNorm conv_norm_out_;
  Conv2d conv_out_;
};

}  // namespace calotype
