#include "model/encoder.h"

#include "core/cat.h"

namespace calotype {

DownEncoderBlock2D::DownEncoderBlock2D(TensorSource& tensors, const std::string& name, int64_t in,
                                       int64_t out, bool downsample,
                                       const AutoencoderKLConfig& config)
    : name_(name) {
  for (int64_t i = 0; i < config.layers_per_block; i++) {
    resnets_.emplace_back(tensors, cat(name, ".resnets.", i), i == 0 ? in : out, out,
                          config.norm_num_groups);
  }
  if (downsample) downsampler_ = tensors.conv(name + ".downsamplers.0.conv", out, out, 3);
}

Activation DownEncoderBlock2D::forward(Graph& graph, Activation x) const {
  for (const ResnetBlock2D& resnet : resnets_) x = resnet.forward(graph, x);
  if (downsampler_) {
    x = graph.conv(name_ + ".downsamplers.0.conv", x, *downsampler_,
                   {.sampling = Sampling::kDownsample});
  }
  return x;
}

namespace {

std::vector<DownEncoderBlock2D> down_blocks(TensorSource& tensors,
                                            const AutoencoderKLConfig& config) {
  const std::vector<int64_t>& widths = config.block_out_channels;
  std::vector<DownEncoderBlock2D> blocks;
  for (size_t i = 0; i < widths.size(); i++) {
    blocks.emplace_back(tensors, cat("encoder.down_blocks.", i), widths[i == 0 ? 0 : i - 1],
                        widths[i], i + 1 < widths.size(), config);
  }
  return blocks;
}

}  // namespace

Encoder::Encoder(TensorSource& tensors, const AutoencoderKLConfig& config)
    : conv_in_(tensors.conv("encoder.conv_in", config.in_channels,
                            config.block_out_channels.front(), 3)),
      down_blocks_(down_blocks(tensors, config)),
      mid_block_(tensors, "encoder.mid_block", config.block_out_channels.back(),
                 config.norm_num_groups, config.mid_block_add_attention),
      conv_norm_out_(tensors.norm("encoder.conv_norm_out", config.block_out_channels.back(),
                                  config.norm_num_groups)),
      conv_out_(tensors.conv("encoder.conv_out", config.block_out_channels.back(),
                             2 * config.latent_channels, 3)) {
  if (config.use_quant_conv) {
    quant_conv_ =
        tensors.conv("quant_conv", 2 * config.latent_channels, 2 * config.latent_channels, 1);
  }
}

Graph Encoder::graph(int64_t height, int64_t width) const {
  Graph graph({height, width, conv_in_.in});
  Activation x = graph.conv("encoder.conv_in", graph.input(), conv_in_);
  for (const DownEncoderBlock2D& block : down_blocks_) x = block.forward(graph, x);
  x = mid_block_.forward(graph, x);
  x = graph.conv("encoder.conv_out", x, conv_out_, {.norm = &conv_norm_out_});
  if (quant_conv_) x = graph.conv("quant_conv", x, *quant_conv_);
  graph.set_output(x);
  return graph;
}

}  // namespace calotype
