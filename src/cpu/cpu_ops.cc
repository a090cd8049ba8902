#include "cpu/cpu_ops.h"

#include <map>

#include "core/cat.h"
#include "cpu/attention.h"
#include "cpu/bf16.h"
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
  CpuOps(const Simd& simd, int threads, bool fast, std::optional<AmxUnit> bf16)
      : simd_(simd), fast_(fast), bf16_(bf16), work_(threads) {}

  DType element() const override { return DType::kF32; }

  int64_t band_rows(const Graph& graph, const Node& node) const override {
    const ConvNode* conv = as_conv(node);
    if (conv == nullptr) return kAttentionBandRows;
    switch (algorithm_of(graph, *conv)) {
      case Algorithm::kBf16:
        return bf16_band_rows(*conv);
      case Algorithm::kNarrow:
        return kNarrowBandRows;
      case Algorithm::kWinograd:
        return winograd_shape(graph, *conv).band_rows();
      case Algorithm::kDirect:
        break;
    }
    return kDirectBandRows;
  }

  int64_t prepared_bytes(const Graph& graph, const Node& node) const override {
    const ConvNode* conv = as_conv(node);
    if (conv == nullptr) return 0;
    switch (algorithm_of(graph, *conv)) {
      case Algorithm::kBf16:
        return 4 * bf16_weight_floats(*conv);
      case Algorithm::kNarrow:
        return 4 * narrow_weight_floats(*conv);
      case Algorithm::kWinograd:
        return 4 * winograd_shape(graph, *conv).weight_floats();
      case Algorithm::kDirect:
        break;
    }
    return 4 * direct_weight_floats(simd_, *conv, graph.extent(conv->y));
  }

  void prepare(const Graph& graph, const Node& node, void* memory, const Tick& tick) override {
    const ConvNode* conv = as_conv(node);
    if (conv == nullptr) return;
    const ThreadPool::Tick poll = [&](int64_t) { tick(0); };
    touch_pages(memory, prepared_bytes(graph, node), work_.threads, tick);
    float* weights = static_cast<float*>(memory);
    work_.open(workspace_of(*conv, graph.extent(conv->x), graph.extent(conv->y), 1, 1), tick);
    switch (algorithm_of(graph, *conv)) {
      case Algorithm::kBf16:
        return bf16_prepare(*conv, work_, weights, poll);
      case Algorithm::kNarrow:
        return narrow_prepare(simd_, *conv, weights);
      case Algorithm::kWinograd:
        return winograd_prepare(simd_, *conv, winograd_shape(graph, *conv), work_, weights, poll);
      case Algorithm::kDirect:
        return direct_prepare(simd_, *conv, graph.extent(conv->y), work_, weights, poll);
    }
  }

  WorkspaceBytes workspace(const Graph& graph, const Node& node, int64_t batch,
                           int64_t rows) const override {
    const Extent y = graph.extent(output_of(node));
    const ConvNode* conv = as_conv(node);
    if (conv == nullptr) return attention_workspace(simd_, y, batch, work_.threads);
    return workspace_of(*conv, graph.extent(conv->x), y, batch, rows);
  }

  WorkspaceBytes held_workspace() const override { return work_.held(); }
  void fit_workspace(const WorkspaceBytes& most) override { work_.fit(most); }

  std::string name() const override {
    return cat(simd_.name, bf16_ ? "-bf16-" : fast_ ? "-fast-" : "-f32-", work_.threads);
  }
  int threads() const override { return work_.threads; }

  std::string algorithm(const Graph& graph, const Node& node) const override {
    const ConvNode* conv = as_conv(node);
    const Extent y = graph.extent(output_of(node));
    if (conv == nullptr) return attention_takes_amx(simd_, y) ? "amx attention" : "attention";
    switch (algorithm_of(graph, *conv)) {
      case Algorithm::kBf16:
        return "direct bf16";
      case Algorithm::kNarrow:
        return "taps as columns";
      case Algorithm::kWinograd: {
        const WinogradShape shape = winograd_shape(graph, *conv);
        return cat(shape.split ? "amx F(" : "winograd F(", shape.outputs, ",", shape.taps, ")");
      }
      case Algorithm::kDirect:
        break;
    }
    return direct_takes_amx(simd_, *conv) ? "amx direct" : "direct";
  }

  double flop_executed(const Graph& graph, const Node& node) const override {
    const Extent y = graph.extent(output_of(node));
    const ConvNode* conv = as_conv(node);
    if (conv == nullptr) return attention_flop(y);
    switch (algorithm_of(graph, *conv)) {
      case Algorithm::kBf16:
        return bf16_flop(*conv, y);
      case Algorithm::kNarrow:
        return narrow_flop(*conv, y);
      case Algorithm::kWinograd:
        return winograd_flop(winograd_shape(graph, *conv));
      case Algorithm::kDirect:
        break;
    }
    return flop_of(graph, node);
  }

  void conv(const ConvCall& call, const Tick& tick) override {
    const ConvNode& node = *call.node;
    if (node.shortcut || call.prepared == nullptr) {
      fail(ErrorCode::kInternal, node.name, " is of a graph that is not lowered or not prepared");
    }
    FoldedNorm norm;
    if (node.norm) norm = fold_norm(*node.norm, call.x_stats, call.batch);
    const ConvProblem problem{call,
                              node,
                              call.x.extent,
                              call.y.extent,
                              norm,
                              load_bias(node.conv),
                              static_cast<const float*>(call.prepared)};
    Stages stages(tick);
    work_.open(workspace_of(node, problem.x, problem.y, call.batch, call.y.rows), tick);
    touch(call.y, call.batch, tick);
    switch (algorithm_of(node, problem.x, problem.y)) {
      case Algorithm::kBf16:
        return bf16_conv(simd_, *bf16_, problem, work_, stages);
      case Algorithm::kNarrow:
        return narrow_conv(simd_, problem, work_, stages);
      case Algorithm::kWinograd:
        return winograd_conv(simd_, problem, fast_, work_, stages);
      case Algorithm::kDirect:
        return direct_conv(simd_, problem, work_, stages);
    }
  }

  void attention(const AttentionCall& call, const Tick& tick) override {
    const FoldedNorm norm = fold_norm(call.node->norm, call.x_stats, call.batch);
    Stages stages(tick);
    work_.open(attention_workspace(simd_, call.x.extent, call.batch, work_.threads), tick);
    cpu::attention(simd_, call, norm, work_, stages);
  }

 private:
  enum class Algorithm { kBf16, kNarrow, kWinograd, kDirect };
  Algorithm algorithm_of(const ConvNode& node, Extent x, Extent y) const {
    if (bf16_ && bf16_takes(node)) return Algorithm::kBf16;
    if (narrow_takes(node)) return Algorithm::kNarrow;
    const bool winograd =
        winograd_takes(node) && winograd_pays({simd_, node, x, y, fast_}, node, y);
    return winograd ? Algorithm::kWinograd : Algorithm::kDirect;
  }
  Algorithm algorithm_of(const Graph& graph, const ConvNode& node) const {
    return algorithm_of(node, graph.extent(node.x), graph.extent(node.y));
  }
  WorkspaceBytes workspace_of(const ConvNode& conv, Extent x, Extent y, int64_t batch,
                              int64_t rows) const {
    Extent strip = y;
    strip.h = rows;
    switch (algorithm_of(conv, x, y)) {
      case Algorithm::kBf16:
        return bf16_workspace(conv, strip, batch, work_.threads);
      case Algorithm::kNarrow:
        return narrow_workspace(conv, strip, batch, work_.threads);
      case Algorithm::kWinograd:
        return winograd_workspace({simd_, conv, x, y, fast_}, strip, batch, work_.threads);
      case Algorithm::kDirect:
        break;
    }
    return direct_workspace(simd_, conv, strip, batch, work_.threads);
  }
  WinogradShape winograd_shape(const Graph& graph, const ConvNode& node) const {
    return WinogradShape(simd_, node, graph.extent(node.x), graph.extent(node.y), fast_);
  }

  void touch(const Rows& y, int64_t batch, const Tick& tick) const {
    const int64_t bytes = y.rows * y.extent.w * y.extent.c * int64_t{sizeof(float)};
    for (int64_t picture = 0; picture < batch; picture++) {
      float* rows = static_cast<float*>(y.data) + picture * y.picture_stride;
      touch_pages(rows, bytes, work_.threads, tick);
    }
  }

  // Padded with zeros.
  const float* load_bias(const Conv2d& conv) {
    bias_.assign(static_cast<size_t>(round_up(conv.out, kBlock)), 0.0f);
    copy_elements(conv.bias, 0, {bias_.data(), static_cast<size_t>(conv.out)});
    return bias_.data();
  }

  const Simd& simd_;
  const bool fast_;
  const std::optional<AmxUnit> bf16_;
  Workspace work_;
  std::vector<float> bias_;
};

}  // namespace

}  // namespace cpu

std::unique_ptr<Ops> make_cpu_ops(Precision precision, int threads) {
  if (precision == Precision::kF16 || precision == Precision::kFP8) {
    fail(ErrorCode::kUnsupported, "precision ", precision == Precision::kF16 ? "f16" : "fp8",
         " is for GPUs, and this job would run on the CPU; use f32, or fast");
  }
  const cpu::Simd& simd = cpu::chosen_simd();
  std::optional<cpu::AmxUnit> bf16;
  if (precision == Precision::kBF16) {
    if (!cpu::amx_usable()) {
      fail(ErrorCode::kUnsupported,
           "precision bf16 needs a processor with AMX, which this machine lacks; use f32, or fast");
    }
    bf16 = cpu::AmxUnit::kReal;
  }
  return std::make_unique<cpu::CpuOps>(simd, threads > 0 ? threads : default_threads(),
                                       precision == Precision::kFast, bf16);
}

std::unique_ptr<Ops> make_emulated_amx_ops(Precision precision, int threads) {
  static std::map<std::string, cpu::Simd> emulated;  // Ops refer to them
  const cpu::Simd& chosen = cpu::chosen_simd();
  cpu::Simd& simd = emulated.try_emplace(chosen.name, chosen).first->second;
  simd.name = "emulated amx";
  simd.amx = cpu::AmxUnit::kEmulated;
  std::optional<cpu::AmxUnit> bf16;
  if (precision == Precision::kBF16) bf16 = cpu::AmxUnit::kEmulated;
  return std::make_unique<cpu::CpuOps>(simd, threads, precision == Precision::kFast, bf16);
}

std::vector<std::string> cpu_simd_targets() {
  std::vector<std::string> names;
  for (const cpu::Simd& simd : cpu::simd_targets()) names.push_back(simd.name);
  return names;
}

std::string cpu_simd_target() { return cpu::chosen_simd().name; }

int default_threads() { return cpu::available_threads(); }

}  // namespace calotype
