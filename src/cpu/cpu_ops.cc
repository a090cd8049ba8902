#include "cpu/cpu_ops.h"

#include "core/cat.h"
#include "cpu/attention.h"
#include "cpu/direct_conv.h"
#include "cpu/narrow_conv.h"
#include "cpu/problem.h"
#include "cpu/simd.h"
#include "cpu/thread_pool.h"
#include "cpu/winograd.h"

namespace calotype {
namespace cpu {
namespace {

const ConvNode* as_conv(const Node& node) { return std::get_if<ConvNode>(&node); }

class CpuOps : public Ops {
 public:
  CpuOps(const Simd& simd, int threads, bool fast) : simd_(simd), fast_(fast), work_(threads) {}

  DType element() const override { return DType::kF32; }

  int64_t band_rows(const Graph& graph, const Node& node) const override {
    const ConvNode* conv = as_conv(node);
    if (conv == nullptr) return kAttentionBandRows;
    if (narrow_takes(*conv)) return kNarrowBandRows;
    if (!winograd_takes(*conv)) return kDirectBandRows;
    return WinogradShape(*conv, graph.extent(conv->x), graph.extent(conv->y), fast_).band_rows();
  }

  int64_t workspace_bytes(const Graph& graph, const Node& node, int64_t batch) const override {
    const Extent y = graph.extent(output_of(node));
    const ConvNode* conv = as_conv(node);
    if (conv == nullptr) return attention_workspace_bytes(y, batch, work_.threads);
    if (narrow_takes(*conv)) return narrow_workspace_bytes(*conv, y, batch, work_.threads);
    const Extent x = graph.extent(conv->x);
    return winograd_takes(*conv)
               ? winograd_workspace_bytes(*conv, x, y, fast_, batch, work_.threads)
               : direct_workspace_bytes(*conv, x, y, batch, work_.threads);
  }

  std::string algorithm(const Graph& graph, const Node& node) const override {
    const ConvNode* conv = as_conv(node);
    if (conv == nullptr) return "attention";
    if (narrow_takes(*conv)) return "narrow";
    if (!winograd_takes(*conv)) return "direct";
    const WinogradShape shape(*conv, graph.extent(conv->x), graph.extent(conv->y), fast_);
    return cat("winograd F(", shape.outputs, ",", shape.taps, ")");
  }

  double flop_executed(const Graph& graph, const Node& node) const override {
    const Extent y = graph.extent(output_of(node));
    const ConvNode* conv = as_conv(node);
    if (conv == nullptr) return attention_flop(y);
    if (narrow_takes(*conv)) return narrow_flop(*conv, y);
    if (!winograd_takes(*conv)) return flop_of(graph, node);
    return winograd_flop(*conv, graph.extent(conv->x), y, fast_);
  }

  void conv(const ConvCall& call, const Tick& tick) override {
    const ConvNode& node = *call.node;
    FoldedNorm norm;
    if (node.norm) norm = fold_norm(*node.norm, call.x_stats, call.batch);
    Stages stages(tick);
    const ConvProblem problem{call, node, call.x.extent, call.y.extent, norm, fold_bias(node)};
    if (narrow_takes(node)) {
      narrow_conv(simd_, problem, work_, stages);
    } else if (winograd_takes(node)) {
      winograd_conv(simd_, problem, fast_, work_, stages);
    } else {
      direct_conv(simd_, problem, work_, stages);
    }
  }

  void attention(const AttentionCall& call, const Tick& tick) override {
    const FoldedNorm norm = fold_norm(call.node->norm, call.x_stats, call.batch);
    Stages stages(tick);
    cpu::attention(simd_, call, norm, work_, stages);
  }

 private:
  // Of the convolution and of the shortcut, padded with zeros.
  const float* fold_bias(const ConvNode& node) {
    const auto out = static_cast<size_t>(node.conv.out);
    bias_.assign(static_cast<size_t>(round_up(node.conv.out, kBlock)), 0.0f);
    copy_elements(node.conv.bias, 0, {bias_.data(), out});
    if (node.shortcut) {
      std::vector<float> shortcut(out);
      copy_elements(node.shortcut->bias, 0, std::span<float>(shortcut));
      for (size_t i = 0; i < out; i++) bias_[i] += shortcut[i];
    }
    return bias_.data();
  }

  const Simd& simd_;
  const bool fast_;
  Workspace work_;
  std::vector<float> bias_;
};

}  // namespace
}  // namespace cpu

std::unique_ptr<Ops> make_cpu_ops(Precision precision, int threads) {
  const cpu::Simd& simd = cpu::chosen_simd();
  if (precision == Precision::kBF16) {
    fail(ErrorCode::kUnsupported,
         "this machine has no bf16 instructions (AVX512-BF16 or AMX); use --precision f32 or fast");
  }
  return std::make_unique<cpu::CpuOps>(simd, threads > 0 ? threads : default_threads(),
                                       precision == Precision::kFast);
}

std::vector<std::string> cpu_simd_targets() {
  std::vector<std::string> names;
  for (const cpu::Simd& simd : cpu::simd_targets()) names.push_back(simd.name);
  return names;
}

std::string cpu_simd_target() { return cpu::chosen_simd().name; }

int default_threads() { return cpu::available_threads(); }

}  // namespace calotype
