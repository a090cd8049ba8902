#include "cuda/weights.h"

#include <algorithm>
#include <cmath>

#include "core/cat.h"

namespace calotype::cuda {
namespace {

int64_t aligned(int64_t bytes) { return (bytes + 255) / 256 * 256; }

bool device_reads(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

// A tensor as its bytes are in the file.
struct Raw {
  const void* data = nullptr;
  DType dtype = DType::kF32;
};

// Packs one operation after the other through one staging buffer: the stream keeps the order.
class Packer {
 public:
  Packer(const Graph& graph, const GraphPlan& plan, Element element, const Machine& machine,
         Buffer& memory)
      : plan_(plan), element_(element), machine_(machine) {
    staging_.grow(GraphWeights::staging_bytes(graph), "weights on their way");
    memory.grow(plan.weight_bytes, "weights");
    to_ = static_cast<char*>(memory.data());
    end_ = to_ + plan.weight_bytes;
  }

  NodeWeights pack(const ConvNode& node, size_t i) {
    staged_ = 0;
    NodeWeights weights;
    std::vector<double> bias = numbers(node.conv.bias);
    if (node.shortcut) {
      const std::vector<double> more = numbers(node.shortcut->bias);
      std::transform(bias.begin(), bias.end(), more.begin(), bias.begin(), std::plus<>());
    }
    PackConv call = describe(plan_.nodes[i].conv, node.conv.in, node.conv.out);
    const Raw raw = upload(node.conv.weight);
    call.weight = raw.data;
    call.dtype = raw.dtype;
    if (node.shortcut) {
      const Raw shortcut = upload(node.shortcut->weight);
      call.shortcut_in = static_cast<int>(node.shortcut->in);
      call.shortcut = shortcut.data;
      call.shortcut_dtype = shortcut.dtype;
    }
    weights.conv = finish(plan_.nodes[i].conv, call, {bias.begin(), bias.end()});
    if (node.norm) weights.norm = norm(*node.norm);
    return weights;
  }

  NodeWeights pack(const AttentionNode& node, size_t i) {
    staged_ = 0;
    const AttentionPlan& plan = *plan_.nodes[i].attention;
    const AttentionWeights& w = node.weights;
    const int c = static_cast<int>(w.query.shape.front());
    const float* query = widened(w.query);
    const float* key = widened(w.key);
    const float* value = widened(w.value);
    const float* out = widened(w.out);
    const double log2e_over_root = 1.4426950408889634 / std::sqrt(static_cast<double>(c));
    NodeWeights weights;
    Fold queries = {c, c, key, true, query, nullptr, log2e_over_root, nullptr};
    Fold query_bias = {c, 1, key, true, widened(w.query_bias), nullptr, log2e_over_root, nullptr};
    weights.conv = folded(plan.query, queries, query_bias);
    Fold outs = {c, c, out, false, value, nullptr, 1, nullptr};
    Fold out_bias = {c, 1, out, false, widened(w.value_bias), widened(w.out_bias), 1, nullptr};
    weights.out = folded(plan.out, outs, out_bias);
    weights.norm = norm(node.norm);
    return weights;
  }

  void finish_all() { check(cudaStreamSynchronize(machine_.stream), "upload of weights"); }

  static int64_t staging_bytes(const Node& node) {
    const auto raw_bytes = [](const TensorView& view) {
      return aligned(device_reads(view.dtype) ? byte_count(view.dtype, view.shape)
                                              : view.size() * 4);
    };
    if (const auto* conv = std::get_if<ConvNode>(&node)) {
      return raw_bytes(conv->conv.weight) +
             (conv->shortcut ? raw_bytes(conv->shortcut->weight) : 0);
    }
    // Raw and widened tensors, and two folded ones.
    const AttentionWeights& w = std::get<AttentionNode>(node).weights;
    int64_t bytes = 2 * aligned(w.query.size() * 4) + 2 * aligned(w.query_bias.size() * 4);
    for (const TensorView* view :
         {&w.query, &w.key, &w.value, &w.out, &w.query_bias, &w.value_bias, &w.out_bias}) {
      bytes += raw_bytes(*view) + aligned(view->size() * 4);
    }
    return bytes;
  }

 private:
  static std::vector<double> numbers(const TensorView& view) {
    std::vector<double> values(static_cast<size_t>(view.size()));
    copy_elements(view, 0, std::span<double>(values));
    return values;
  }

  void* stage(int64_t bytes) {
    void* place = static_cast<char*>(staging_.data()) + staged_;
    staged_ += aligned(bytes);
    if (staged_ > staging_.bytes()) fail(ErrorCode::kInternal, "weights overrun their staging");
    return place;
  }
  void* keep(int64_t bytes) {
    char* place = to_;
    to_ += aligned(bytes);
    if (to_ > end_) fail(ErrorCode::kInternal, "weights overrun their plan");
    return place;
  }
  // The source is pageable: it has been read when this returns.
  void copy(void* to, const void* from, int64_t bytes) {
    check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice,
                          machine_.stream),
          "cudaMemcpyAsync", "weights");
  }

  Raw upload(const TensorView& view) {
    if (device_reads(view.dtype)) {
      const int64_t bytes = byte_count(view.dtype, view.shape);
      void* to = stage(bytes);
      copy(to, view.data, bytes);
      return {to, view.dtype};
    }
    std::vector<float> values(static_cast<size_t>(view.size()));
    copy_elements(view, 0, std::span<float>(values));
    void* to = stage(view.size() * 4);
    copy(to, values.data(), view.size() * 4);
    return {to, DType::kF32};
  }
  const float* widened(const TensorView& view) {
    const Raw raw = upload(view);
    auto* to = static_cast<float*>(stage(view.size() * 4));
    widen(raw.data, raw.dtype, view.size(), to, machine_);
    return to;
  }
  float* kept(const std::vector<float>& values) {
    const auto bytes = static_cast<int64_t>(values.size() * 4);
    void* to = keep(bytes);
    copy(to, values.data(), bytes);
    return static_cast<float*>(to);
  }

  NormWeights norm(const GroupNorm& from) {
    const std::vector<double> weight = numbers(from.weight), bias = numbers(from.bias);
    NormWeights norm;
    norm.weight = kept({weight.begin(), weight.end()});
    norm.bias = kept({bias.begin(), bias.end()});
    norm.groups = from.groups;
    norm.eps = static_cast<float>(from.eps);
    return norm;
  }

  PackConv describe(const ConvPlan& plan, int64_t in, int64_t out) const {
    PackConv call;
    call.element = element_;
    call.mode = plan.mode;
    call.in = static_cast<int>(in);
    call.out = static_cast<int>(out);
    call.rows = plan.weight_rows;
    return call;
  }
  ConvWeights finish(const ConvPlan& plan, PackConv call, std::vector<float> bias) {
    bias.resize(static_cast<size_t>(plan.weight_rows));
    call.packed = keep(plan.packed_bytes);
    if (plan.fp8) {
      auto* scale = static_cast<float*>(keep(plan.weight_rows * int64_t{4}));
      pack_fp8(call, scale, machine_);
      return {call.packed, kept(bias), scale};
    }
    pack_conv(call, machine_);
    return {call.packed, kept(bias)};
  }
  ConvWeights folded(const ConvPlan& plan, Fold matrix, Fold bias) {
    const int c = matrix.size;
    matrix.c = static_cast<float*>(stage(int64_t{4} * c * c));
    fold(matrix, machine_);
    PackConv call = describe(plan, c, c);
    call.weight = matrix.c;
    ConvWeights weights = finish(plan, call, {});
    bias.c = const_cast<float*>(weights.bias);  // zeros until now
    fold(bias, machine_);
    return weights;
  }

  const GraphPlan& plan_;
  const Element element_;
  const Machine machine_;
  Buffer staging_;
  int64_t staged_ = 0;
  char* to_ = nullptr;
  char* end_ = nullptr;
};

}  // namespace

int64_t GraphWeights::staging_bytes(const Graph& graph) {
  int64_t most = 0;
  for (const Node& node : graph.nodes()) most = std::max(most, Packer::staging_bytes(node));
  return most;
}

GraphWeights::GraphWeights(const Graph& graph, const GraphPlan& plan, Element element,
                           const Machine& machine) {
  Packer packer(graph, plan, element, machine, memory_);
  for (size_t i = 0; i < graph.nodes().size(); i++) {
    const Node& node = graph.nodes()[i];
    const LayerScope layer(name_of(node));
    nodes_.push_back(std::visit([&](const auto& n) { return packer.pack(n, i); }, node));
  }
  packer.finish_all();
}

}  // namespace calotype::cuda
