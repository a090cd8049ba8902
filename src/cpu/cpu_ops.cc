#include "cpu/cpu_ops.h"

#include "core/cat.h"
#include "cpu/attention.h"
#include "cpu/direct_conv.h"
#include "cpu/problem.h"
#include "cpu/simd.h"
#include "cpu/thread_pool.h"

namespace calotype {
namespace cpu {
namespace {

const ConvNode* as_conv(const Node& node) { return std::get_if<ConvNode>(&node); }

class CpuOps : public Ops {
 public:
  CpuOps(const Simd& simd, int threads) : simd_(simd), work_(threads) {}

  DType element() const override { return DType::kF32; }

  int64_t band_rows(const Graph&, const Node& node) const override {
    return as_conv(node) != nullptr ? kDirectBandRows : kAttentionBandRows;
  }

  int64_t workspace_bytes(const Graph& graph, const Node& node, int64_t batch) const override {
    const Extent y = graph.extent(output_of(node));
    if (const ConvNode* conv = as_conv(node)) {
      return direct_workspace_bytes(*conv, graph.extent(conv->x), y, batch, work_.threads);
    }
    return attention_workspace_bytes(y, batch, work_.threads);
  }

  std::string algorithm(const Graph&, const Node& node) const override {
    return as_conv(node) != nullptr ? "direct" : "attention";
  }

  double flop_executed(const Graph& graph, const Node& node) const override {
    if (as_conv(node) != nullptr) return flop_of(graph, node);
    return attention_flop(graph.extent(output_of(node)));
  }

  void conv(const ConvCall& call, const Tick& tick) override {
    const ConvNode& node = *call.node;
    FoldedNorm norm;
    if (node.norm) norm = fold_norm(*node.norm, call.x_stats, call.batch);
    Stages stages(tick);
    direct_conv(simd_, {call, node, call.x.extent, call.y.extent, norm, fold_bias(node)}, work_,
                stages);
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
  return std::make_unique<cpu::CpuOps>(simd, threads > 0 ? threads : default_threads());
}

std::vector<std::string> cpu_simd_targets() {
  std::vector<std::string> names;
  for (const cpu::Simd& simd : cpu::simd_targets()) names.push_back(simd.name);
  return names;
}

std::string cpu_simd_target() { return cpu::chosen_simd().name; }

int default_threads() { return cpu::available_threads(); }

}  // namespace calotype
