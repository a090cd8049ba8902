// The encoder: pictures to the moments of the posterior.
#pragma once

#include <optional>
#include <vector>

#include "calotype/model_source.h"
#include "model/blocks.h"

namespace calotype {

// `layers_per_block` resnets, then, but on the last level, a stride-2 convolution.
class DownEncoderBlock2D {
 public:
  DownEncoderBlock2D(TensorSource& tensors, const std::string& name, int64_t in, int64_t out,
                     bool downsample, const AutoencoderKLConfig& config);
  Activation forward(Graph& graph, Activation x) const;

 private:
  std::string name_;
  std::vector<ResnetBlock2D> resnets_;
  std::optional<Conv2d> downsampler_;
};

class Encoder {
 public:
  Encoder(TensorSource& tensors, const AutoencoderKLConfig& config);
  // Pictures [H, W, in_channels] -> moments [H/f, W/f, 2 * latent_channels]: mean, logvar (not
  // clamped). quant_conv included.
  Graph graph(int64_t height, int64_t width) const;

 private:
  Conv2d conv_in_;
  std::vector<DownEncoderBlock2D> down_blocks_;
  UNetMidBlock2D mid_block_;
  GroupNorm conv_norm_out_;
  Conv2d conv_out_;
  std::optional<Conv2d> quant_conv_;
};

}  // namespace calotype
