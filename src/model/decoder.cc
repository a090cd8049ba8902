#include "model/decoder.h"

#include "core/cat.h"

namespace calotype {

UpDecoderBlock2D::UpDecoderBlock2D(TensorSource& tensors, const std::string& name, int64_t in,
                                   int64_t out, bool upsample, const AutoencoderKLConfig& config)
    : name_(name) {
  for (int64_t i = 0; i < config.layers_per_block + 1; i++) {
    resnets_.emplace_back(tensors, cat(name, ".resnets.", i), i == 0 ? in : out, out,
                          config.norm_num_groups);
  }
  if (upsample) upsampler_ = tensors.conv(name + ".upsamplers.0.conv", out, out, 3);
}

Activation UpDecoderBlock2D::forward(Graph& graph, Activation x) const {
  for (const ResnetBlock2D& resnet : resnets_) x = resnet.forward(graph, x);
  if (upsampler_)
    x = graph.conv(name_ + ".upsamplers.0.conv", x, *upsampler_, {.sampling = Sampling::kUpsample});
  return x;
}

namespace {

std::optional<Conv2d> post_quant_conv(TensorSource& tensors, const AutoencoderKLConfig& config) {
  if (!config.use_post_quant_conv) return {};
  return tensors.conv("post_quant_conv", config.latent_channels, config.latent_channels, 1);
}

std::vector<UpDecoderBlock2D> up_blocks(TensorSource& tensors, const AutoencoderKLConfig& config) {
  const std::vector<int64_t> widths(config.decoder_channels().rbegin(),
                                    config.decoder_channels().rend());
  std::vector<UpDecoderBlock2D> blocks;
  for (size_t i = 0; i < widths.size(); i++) {
    blocks.emplace_back(tensors, cat("decoder.up_blocks.", i), widths[i == 0 ? 0 : i - 1],
                        widths[i], i + 1 < widths.size(), config);
  }
  return blocks;
}

}  // namespace

Decoder::Decoder(TensorSource& tensors, const AutoencoderKLConfig& config)
    : post_quant_conv_(post_quant_conv(tensors, config)),
      conv_in_(tensors.conv("decoder.conv_in", config.latent_channels,
                            config.decoder_channels().back(), 3)),
      mid_block_(tensors, "decoder.mid_block", config.decoder_channels().back(),
                 config.norm_num_groups, config.mid_block_add_attention),
      up_blocks_(up_blocks(tensors, config)),
      conv_norm_out_(tensors.norm("decoder.conv_norm_out", config.decoder_channels().front(),
                                  config.norm_num_groups)),
      conv_out_(tensors.conv("decoder.conv_out", config.decoder_channels().front(),
                             config.out_channels, 3)) {}

Graph Decoder::graph(int64_t height, int64_t width) const {
  Graph graph({height, width, post_quant_conv_ ? post_quant_conv_->in : conv_in_.in});
  Activation x = graph.input();
  if (post_quant_conv_) x = graph.conv("post_quant_conv", x, *post_quant_conv_);
  x = graph.conv("decoder.conv_in", x, conv_in_);
  x = mid_block_.forward(graph, x);
  for (const UpDecoderBlock2D& block : up_blocks_) x = block.forward(graph, x);
  x = graph.conv("decoder.conv_out", x, conv_out_, {.norm = &conv_norm_out_});
  graph.set_output(x);
  return graph;
}

}  // namespace calotype
