// The blocks that encoder and decoder are made of, named as in diffusers.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "model/tensor_source.h"
#include "ops/graph.h"

namespace calotype {

// x + conv2(silu(norm2(conv1(silu(norm1(x)))))), with a 1x1 shortcut on x where the widths differ.
class ResnetBlock2D {
 public:
  ResnetBlock2D(TensorSource& tensors, const std::string& name, int64_t in, int64_t out,
                int64_t groups);
  Activation forward(Graph& graph, Activation x) const;

 private:
  std::string name_;
  GroupNorm norm1_, norm2_;
  Conv2d conv1_, conv2_;
  std::optional<Conv2d> conv_shortcut_;
};

// x + to_out(softmax(q k^T / sqrt(C)) v) over the pixels of norm(x), one head.
class Attention {
 public:
  Attention(TensorSource& tensors, const std::string& name, int64_t channels, int64_t groups);
  Activation forward(Graph& graph, Activation x) const;

 private:
  std::string name_;
  GroupNorm group_norm_;
  AttentionWeights weights_;
};

// resnet, attention (where the config has it), resnet.
class UNetMidBlock2D {
 public:
  UNetMidBlock2D(TensorSource& tensors, const std::string& name, int64_t channels, int64_t groups,
                 bool add_attention);
  Activation forward(Graph& graph, Activation x) const;

 private:
  ResnetBlock2D first_;
  std::optional<Attention> attention_;
  ResnetBlock2D last_;
};

}  // namespace calotype
