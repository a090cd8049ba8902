#include "support/plain_run.h"

#include <cstdlib>
#include <memory>
#include <stdexcept>

#include "reference/reference_ops.h"

namespace calotype::test {
namespace {

struct FreeMemory {
  void operator()(std::byte* p) const noexcept { std::free(p); }
};

template <class T>
class PlainRun {
 public:
  PlainRun(const Graph& graph, Ops& ops, int64_t batch)
      : graph_(graph), ops_(ops), batch_(batch), values_(count()), stats_(count()) {
    if (ops.element() != (sizeof(T) == 8 ? DType::kF64 : DType::kF32)) {
      throw std::invalid_argument("the backend has another type of activations");
    }
  }

  std::vector<T> run(std::span<const T> input) {
    values_[0].assign(input.begin(), input.end());
    if (values_[0].size() != size(graph_.input())) {
      throw std::invalid_argument("the input has another size than the graph's");
    }
    for (const Node& node : graph_.nodes()) step(node);
    return values_[index(graph_.output())];
  }

 private:
  static size_t index(Activation a) { return static_cast<size_t>(a.id); }
  size_t count() const { return static_cast<size_t>(graph_.activations()); }
  size_t size(Activation a) const {
    const Extent e = graph_.extent(a);
    return static_cast<size_t>(batch_ * e.h * e.w * e.c);
  }
  Rows rows(Activation a) {
    const Extent e = graph_.extent(a);
    return {values_[index(a)].data(), 0, e.h, e.h * e.w * e.c, e};
  }
  BandStats bands(const Node& node) const {
    const Activation y = output_of(node);
    BandStats bands;
    bands.batch = batch_;
    bands.groups = graph_.stats_groups(y);
    bands.band_rows = ops_.band_rows(graph_, node);
    const int64_t rest = graph_.extent(y).h - ops_.first_band_rows(graph_, node);
    bands.bands = 1 + (rest > 0 ? (rest + bands.band_rows - 1) / bands.band_rows : 0);
    bands.values.resize(static_cast<size_t>(bands.bands * batch_ * bands.groups));
    return bands;
  }
  std::unique_ptr<std::byte, FreeMemory> prepared(const Node& node) {
    const auto bytes = static_cast<size_t>(ops_.prepared_bytes(graph_, node));
    if (bytes == 0) return nullptr;
    void* memory = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    ops_.prepare(graph_, node, memory, [](double) {});
    return std::unique_ptr<std::byte, FreeMemory>(static_cast<std::byte*>(memory));
  }

  void step(const Node& node) {
    const Activation y = output_of(node);
    values_[index(y)].resize(size(y));
    BandStats bands = this->bands(node);
    BandStats* y_stats = bands.groups > 0 ? &bands : nullptr;
    const auto memory = prepared(node);
    if (const auto* conv = std::get_if<ConvNode>(&node)) {
      ConvCall call;
      call.node = conv;
      call.batch = batch_;
      call.x = rows(conv->x);
      if (conv->norm) call.x_stats = stats_[index(conv->x)];
      if (conv->residual) call.residual = rows(*conv->residual);
      call.y = rows(y);
      call.y_stats = y_stats;
      call.prepared = memory.get();
      ops_.conv(call, [](double) {});
    } else {
      const auto& attention = std::get<AttentionNode>(node);
      AttentionCall call;
      call.node = &attention;
      call.batch = batch_;
      call.x = rows(attention.x);
      call.x_stats = stats_[index(attention.x)];
      call.y = rows(y);
      call.y_stats = y_stats;
      ops_.attention(call, [](double) {});
    }
    if (y_stats != nullptr) stats_[index(y)] = bands.merged();
  }

  const Graph& graph_;
  Ops& ops_;
  const int64_t batch_;
  std::vector<std::vector<T>> values_;
  std::vector<std::vector<GroupStats>> stats_;
};

}  // namespace

template <class T>
std::vector<T> run_plainly(const Graph& graph, Ops& ops, int64_t batch, std::span<const T> input) {
  return PlainRun<T>(graph, ops, batch).run(input);
}
template std::vector<float> run_plainly(const Graph&, Ops&, int64_t, std::span<const float>);
template std::vector<double> run_plainly(const Graph&, Ops&, int64_t, std::span<const double>);

std::vector<double> run_reference(const Graph& graph, int64_t batch,
                                  std::span<const double> input) {
  return run_plainly<double>(graph, *make_reference_ops(1), batch, input);
}

}  // namespace calotype::test
