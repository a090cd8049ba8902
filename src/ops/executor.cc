#include "ops/executor.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <limits>
#include <memory>

#include "core/cat.h"
#include "core/checked.h"

namespace calotype {
namespace {

constexpr int64_t kAlignment = 4096;  // a page: no two activations share one

int64_t elements_of(Extent e) { return checked_mul(checked_mul(e.h, e.w), e.c); }

int64_t element_bytes(const Ops& ops) { return byte_count(ops.element(), {1}); }

const ConvNode* as_conv(const Node& node) { return std::get_if<ConvNode>(&node); }

// The operation may write its result over this input, whose last reader it is; -1 where there is
// none.
int overwritable(const Node& node) {
  if (const ConvNode* conv = as_conv(node)) {
    return conv->residual && !conv->shortcut && conv->sampling == Sampling::kSame &&
                   conv->residual->id != conv->x.id
               ? conv->residual->id
               : -1;
  }
  return std::get<AttentionNode>(node).x.id;
}

// First-fit places in one arena for activations that live from their maker to their last reader.
class Arena {
 public:
  int64_t take(int64_t bytes) {
    auto place = taken_.begin();
    int64_t start = 0;
    for (; place != taken_.end() && place->start - start < bytes; ++place) start = place->end;
    taken_.insert(place, {start, checked_add(start, bytes)});
    size_ = std::max(size_, start + bytes);
    return start;
  }
  void free(int64_t start) {
    std::erase_if(taken_, [&](const Place& p) { return p.start == start; });
  }
  int64_t size() const { return size_; }

 private:
  struct Place {
    int64_t start, end;
  };
  std::vector<Place> taken_;  // by start
  int64_t size_ = 0;
};

}  // namespace

MemoryPlan plan_memory(const Graph& graph, const Ops& ops, int64_t batch) {
  const auto count = static_cast<size_t>(graph.activations());
  std::vector<size_t> last_reader(count, 0);
  for (size_t i = 0; i < graph.nodes().size(); i++) {
    for (const Activation a : inputs_of(graph.nodes()[i]))
      last_reader[static_cast<size_t>(a.id)] = i;
  }
  MemoryPlan plan;
  plan.offset.assign(count, -1);
  const auto owned_elsewhere = [&](int id) { return id == 0 || id == graph.output().id; };
  Arena arena;
  for (size_t i = 0; i < graph.nodes().size(); i++) {
    const Node& node = graph.nodes()[i];
    const Activation y = output_of(node);
    int reused = overwritable(node);
    if (reused >= 0 && (owned_elsewhere(reused) || last_reader[static_cast<size_t>(reused)] != i))
      reused = -1;
    if (!owned_elsewhere(y.id)) {
      if (reused >= 0) {
        plan.offset[static_cast<size_t>(y.id)] = plan.offset[static_cast<size_t>(reused)];
      } else {
        const int64_t bytes =
            checked_mul(checked_mul(elements_of(graph.extent(y)), batch), element_bytes(ops));
        plan.offset[static_cast<size_t>(y.id)] =
            arena.take((bytes + kAlignment - 1) / kAlignment * kAlignment);
      }
    } else {
      reused = -1;
    }
    for (const Activation a : inputs_of(node)) {
      const auto id = static_cast<size_t>(a.id);
      if (last_reader[id] == i && a.id != reused && plan.offset[id] >= 0)
        arena.free(plan.offset[id]);
    }
    plan.workspace_bytes = std::max(plan.workspace_bytes, ops.workspace_bytes(graph, node, batch));
  }
  plan.arena_bytes = arena.size();
  return plan;
}

namespace {

struct FreeMemory {
  void operator()(std::byte* p) const noexcept { std::free(p); }
};

// One run of a graph.
class Execution {
 public:
  Execution(const Graph& graph, Ops& ops, int64_t batch, const void* input, void* output)
      : graph_(graph),
        ops_(ops),
        batch_(batch),
        input_(input),
        output_(output),
        plan_(plan_memory(graph, ops, batch)) {
    if (plan_.arena_bytes > 0) {
      arena_.reset(static_cast<std::byte*>(std::aligned_alloc(
          static_cast<size_t>(kAlignment), static_cast<size_t>(plan_.arena_bytes))));
      if (arena_ == nullptr) {
        fail(ErrorCode::kOutOfMemory, "there is no memory for activations of ", plan_.arena_bytes,
             " bytes");
      }
    }
    stats_.resize(static_cast<size_t>(graph.activations()));
  }

  void run(const ProgressCallback& progress, std::vector<LayerReport>* layers) {
    double total = 0, done = 0;
    for (const Node& node : graph_.nodes()) total += flop_of(graph_, node);
    for (const Node& node : graph_.nodes()) {
      const double flop = flop_of(graph_, node);
      const auto start = std::chrono::steady_clock::now();
      const Ops::Tick tick = [&](double fraction) {
        if (!progress) return;
        if (!progress({(done + flop * std::clamp(fraction, 0.0, 1.0)) / total, name_of(node)})) {
          fail(ErrorCode::kCancelled, "cancelled at ", name_of(node));
        }
      };
      tick(0);
      run(node, tick);
      if (layers != nullptr) {
        const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
        layers->push_back(report(node, seconds.count()));
      }
      done += flop;
    }
    if (progress && !progress({1.0, ""})) fail(ErrorCode::kCancelled, "cancelled at the end");
  }

 private:
  void* memory(Activation a) const {
    if (a.id == graph_.output().id) return output_;
    return arena_.get() + plan_.offset[static_cast<size_t>(a.id)];
  }
  Rows rows(Activation a) const {
    const Extent e = graph_.extent(a);
    return {memory(a), 0, e.h, elements_of(e), e};
  }
  ConstRows const_rows(Activation a) const {
    if (a.id != 0) return rows(a);
    ConstRows input;
    input.data = input_;
    input.extent = graph_.extent(a);
    input.rows = input.extent.h;
    input.picture_stride = elements_of(input.extent);
    return input;
  }
  const std::vector<GroupStats>& stats(Activation a) const {
    return stats_[static_cast<size_t>(a.id)];
  }

  BandStats bands(const Node& node) const {
    const Activation y = output_of(node);
    BandStats bands;
    bands.groups = graph_.stats_groups(y);
    if (bands.groups == 0) return bands;
    bands.batch = batch_;
    bands.band_rows = ops_.band_rows(graph_, node);
    bands.bands = (graph_.extent(y).h + bands.band_rows - 1) / bands.band_rows;
    bands.values.resize(static_cast<size_t>(bands.bands * batch_ * bands.groups));
    return bands;
  }

  void run(const Node& node, const Ops::Tick& tick) {
    BandStats bands = this->bands(node);
    BandStats* y_stats = bands.groups > 0 ? &bands : nullptr;
    if (const ConvNode* conv = as_conv(node)) {
      ConvCall call;
      call.node = conv;
      call.batch = batch_;
      call.x = const_rows(conv->x);
      if (conv->norm) call.x_stats = stats(conv->x);
      if (conv->residual) call.residual = const_rows(*conv->residual);
      call.y = rows(conv->y);
      call.y_stats = y_stats;
      ops_.conv(call, tick);
    } else {
      const auto& attention = std::get<AttentionNode>(node);
      AttentionCall call;
      call.node = &attention;
      call.batch = batch_;
      call.x = const_rows(attention.x);
      call.x_stats = stats(attention.x);
      call.y = rows(attention.y);
      call.y_stats = y_stats;
      ops_.attention(call, tick);
    }
    if (y_stats != nullptr) stats_[static_cast<size_t>(output_of(node).id)] = bands.merged();
  }

  LayerReport report(const Node& node, double seconds) const {
    const double batch = static_cast<double>(batch_);
    double elements = static_cast<double>(elements_of(graph_.extent(output_of(node))));
    for (const Activation a : inputs_of(node))
      elements += static_cast<double>(elements_of(graph_.extent(a)));
    LayerReport layer;
    layer.name = name_of(node);
    layer.algorithm = ops_.algorithm(graph_, node);
    layer.seconds = seconds;
    layer.flop = batch * flop_of(graph_, node);
    layer.flop_executed = batch * ops_.flop_executed(graph_, node);
    layer.bytes = batch * elements * static_cast<double>(element_bytes(ops_));
    return layer;
  }

  const Graph& graph_;
  Ops& ops_;
  const int64_t batch_;
  const void* const input_;
  void* const output_;
  const MemoryPlan plan_;
  std::unique_ptr<std::byte, FreeMemory> arena_;
  std::vector<std::vector<GroupStats>> stats_;
};

}  // namespace

void execute(const Graph& graph, Ops& ops, int64_t batch, const void* input, void* output,
             const ProgressCallback& progress, std::vector<LayerReport>* layers) {
  Execution(graph, ops, batch, input, output).run(progress, layers);
}

}  // namespace calotype
