#include "model/blocks.h"

namespace calotype {

ResnetBlock2D::ResnetBlock2D(TensorSource& tensors, const std::string& name, int64_t in,
                             int64_t out, int64_t groups)
    : name_(name),
      norm1_(tensors.norm(name + ".norm1", in, groups)),
      norm2_(tensors.norm(name + ".norm2", out, groups)),
      conv1_(tensors.conv(name + ".conv1", in, out, 3)),
      conv2_(tensors.conv(name + ".conv2", out, out, 3)) {
  if (in != out) conv_shortcut_ = tensors.conv(name + ".conv_shortcut", in, out, 1);
}

Activation ResnetBlock2D::forward(Graph& graph, Activation x) const {
  const Activation h = graph.conv(name_ + ".conv1", x, conv1_, {.norm = &norm1_});
  return graph.conv(
      name_ + ".conv2", h, conv2_,
      {.norm = &norm2_, .residual = &x, .shortcut = conv_shortcut_ ? &*conv_shortcut_ : nullptr});
}

Attention::Attention(TensorSource& tensors, const std::string& name, int64_t channels,
                     int64_t groups)
    : name_(name), group_norm_(tensors.norm(name + ".group_norm", channels, groups)) {
  const auto linear = [&](const std::string& part, TensorView& weight, TensorView& bias) {
    weight = tensors.tensor(name + part + ".weight", {channels, channels});
    bias = tensors.tensor(name + part + ".bias", {channels});
  };
  linear(".to_q", weights_.query, weights_.query_bias);
  linear(".to_k", weights_.key, weights_.key_bias);
  linear(".to_v", weights_.value, weights_.value_bias);
  linear(".to_out.0", weights_.out, weights_.out_bias);
}

Activation Attention::forward(Graph& graph, Activation x) const {
  return graph.attention(name_, x, group_norm_, weights_);
}

UNetMidBlock2D::UNetMidBlock2D(TensorSource& tensors, const std::string& name, int64_t channels,
                               int64_t groups, bool add_attention)
    : first_(tensors, name + ".resnets.0", channels, channels, groups),
      last_(tensors, name + ".resnets.1", channels, channels, groups) {
  if (add_attention) attention_.emplace(tensors, name + ".attentions.0", channels, groups);
}

Activation UNetMidBlock2D::forward(Graph& graph, Activation x) const {
  x = first_.forward(graph, x);
  if (attention_) x = attention_->forward(graph, x);
  return last_.forward(graph, x);
}

}  // namespace calotype
