#include "ops/executor.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "core/cat.h"
#include "core/checked.h"
#include "ops/row_memory.h"
#include "ops/scratch.h"

namespace calotype {
namespace {

using Clock = std::chrono::steady_clock;

int64_t elements_of(Extent e) { return checked_mul(checked_mul(e.h, e.w), e.c); }
int64_t page_down(int64_t bytes) { return bytes / kScratchPage * kScratchPage; }
int64_t page_up(int64_t bytes) { return page_down(bytes + kScratchPage - 1); }

// Lets the pages of a mapped tensor go: they come back from the page cache when they are read
// again.
void drop_pages(const TensorView& view) {
  static const auto kPage = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const uintptr_t into_page = reinterpret_cast<uintptr_t>(view.data) % kPage;
  const uintptr_t bytes = into_page + static_cast<uintptr_t>(byte_count(view.dtype, view.shape));
  ::madvise(const_cast<std::byte*>(view.data) - into_page, (bytes + kPage - 1) / kPage * kPage,
            MADV_DONTNEED);
}

// Those of all that a node reads: the kernel maps pages around the one that is touched, so that a
// bias brings some of its neighbours back.
void drop_pages(const Node& node) {
  const auto drop = [](const auto&... views) { (drop_pages(views), ...); };
  if (const auto* conv = std::get_if<ConvNode>(&node)) {
    drop(conv->conv.weight, conv->conv.bias);
    if (conv->norm) drop(conv->norm->weight, conv->norm->bias);
    return;
  }
  const auto& [name, x, y, norm, w] = std::get<AttentionNode>(node);
  drop(norm.weight, norm.bias, w.query, w.key, w.value, w.out, w.query_bias, w.key_bias,
       w.value_bias, w.out_bias);
}

// One activation's rows: addresses for all, memory for those alive.
class Rowed {
 public:
  Rowed() = default;
  Rowed(const RowChunks& chunks, int64_t chunk_bytes)
      : chunks_(chunks),
        chunk_bytes_(chunk_bytes),
        range_(chunks.picture_bytes() * chunks.batch(), chunk_bytes) {}

  void materialize(int64_t last_row, RowMemory& memory) {
    const auto [first, last] = chunks_.materialize(last_row);
    for_each(first, last, [&](std::byte* chunk) { memory.deal(chunk); });
  }
  void release(int64_t row, RowMemory& memory) {
    const auto [first, last] = chunks_.release(row);
    for_each(first, last, [&](std::byte* chunk) { memory.take_back(chunk); });
  }
  std::byte* data() const { return range_.data(); }
  const RowChunks& chunks() const { return chunks_; }

 private:
  template <class F>
  void for_each(int64_t first, int64_t last, F f) {
    for (int64_t b = 0; b < chunks_.batch(); b++) {
      for (int64_t c = first; c < last; c++)
        f(data() + b * chunks_.picture_bytes() + c * chunk_bytes_);
    }
  }

  RowChunks chunks_;
  int64_t chunk_bytes_ = 0;
  AddressRange range_;
};

class Execution {
 public:
  Execution(const Graph& graph, Ops& ops, const ExecutionPlan& plan, int64_t batch,
            const void* input, void* output, const ExecuteOptions& options)
      : graph_(graph),
        ops_(ops),
        plan_(plan),
        batch_(batch),
        element_bytes_(byte_count(ops.element(), {1})),
        input_(input),
        output_(output),
        options_(options),
        memory_(plan.chunk_bytes, options.kept == nullptr ? KeptPages() : std::move(*options.kept)),
        stats_(static_cast<size_t>(graph.activations())),
        seconds_(graph.nodes().size(), 0),
        waits_(graph.nodes().size(), 0) {
    if (plan.scratch_bytes > 0) scratch_.emplace(options.scratch_folder, plan.scratch_bytes);
  }

  void run() {
    for (const Pass& pass : plan_.passes) {
      for (const int index : pass.nodes) total_flop_ += flop(index);
    }
    for (size_t p = 0; p < plan_.passes.size(); p++) {
      make_room(plan_.memory[p]);
      run_pass(plan_.passes[p], plan_.strip_rows[p]);
    }
    if (options_.progress && !options_.progress({1.0, ""}))
      fail(ErrorCode::kCancelled, "cancelled at the end");
    if (options_.layers != nullptr) {
      for (size_t i = 0; i < graph_.nodes().size(); i++) options_.layers->push_back(report(i));
    }
    if (options_.kept != nullptr) keep();
  }

 private:
  const Node& node(int index) const { return graph_.nodes()[static_cast<size_t>(index)]; }
  double flop(int index) const { return ops_.flop_executed(graph_, node(index)); }
  int64_t row_bytes(int a) const {
    const Extent e = graph_.extent({a});
    return e.w * e.c * element_bytes_;
  }

  Rowed& rowed(int a) {
    const auto found = activations_.find(a);
    if (found != activations_.end()) return found->second;
    const RowChunks chunks(batch_, graph_.extent({a}).h, row_bytes(a), plan_.chunk_bytes);
    return activations_.emplace(a, Rowed(chunks, plan_.chunk_bytes)).first->second;
  }

  // Rows from `first` on, wherever they live.
  ConstRows rows_of(int a, int64_t first, int64_t last) {
    const Extent e = graph_.extent({a});
    ConstRows rows;
    rows.extent = e;
    rows.first_row = first;
    rows.rows = last - first;
    if (a == graph_.input().id || a == graph_.output().id) {
      rows.picture_stride = elements_of(e);
      rows.data = static_cast<const std::byte*>(a == graph_.input().id ? input_ : output_) +
                  first * row_bytes(a);
    } else {
      const Rowed& memory = rowed(a);
      rows.picture_stride = memory.chunks().picture_bytes() / element_bytes_;
      rows.data = memory.data() + first * row_bytes(a);
    }
    return rows;
  }

  Rows writable(const ConstRows& rows) const {
    Rows result;
    result.data = const_cast<void*>(rows.data);
    result.first_row = rows.first_row;
    result.rows = rows.rows;
    result.picture_stride = rows.picture_stride;
    result.extent = rows.extent;
    return result;
  }

  // Spare chunks and buffers of earlier passes stay, since new pages cost time, but only where the
  // pass leaves room for them.
  void make_room(const PassMemory& pass) {
    const auto workspace = [&] { return ops_.held_workspace().at_least(pass.workspace).total(); };
    const int64_t rows = std::max(memory_.held_bytes() + pass.weights, pass.rows);
    const int64_t room = plan_.peak_bytes - pass.output;
    if (rows + workspace() > room) ops_.fit_workspace(pass.workspace);
    memory_.trim(room - workspace() - pass.weights);
  }

  void keep() {
    int64_t left = options_.keep_bytes - ops_.held_workspace().total();
    if (left < 0) {
      ops_.fit_workspace({});
      left = options_.keep_bytes;
    }
    *options_.kept = memory_.keep(left);
  }

  void run_pass(const Pass& pass, int64_t strip_rows) {
    for (const int index : pass.nodes) prepare(index);
    for (const int a : pass.collects) bands_[a] = make_bands(a);
    for (const Step& step : make_steps(graph_, ops_, plan_.means, pass, strip_rows)) {
      follow(step, pass.nodes.back());
    }
    for (auto& [a, bands] : bands_) stats_[static_cast<size_t>(a)] = bands.merged();
    bands_.clear();
    for (const int index : pass.nodes) {
      if (const auto prepared = prepared_.find(index); prepared != prepared_.end())
        prepared->second.release(1, memory_);
      if (options_.mapped_weights) drop_pages(node(index));
    }
  }

  void prepare(int index) {
    const auto start = Clock::now();
    if (const int64_t bytes = ops_.prepared_bytes(graph_, node(index)); bytes > 0) {
      if (!prepared_.contains(index)) {
        prepared_.emplace(index,
                          Rowed(RowChunks(1, 1, bytes, plan_.chunk_bytes), plan_.chunk_bytes));
      }
      prepared_.at(index).materialize(1, memory_);
      ops_.prepare(graph_, node(index), prepared_.at(index).data(), make_tick(index, 0));
    }
    if (options_.mapped_weights) {
      if (const auto* conv = std::get_if<ConvNode>(&node(index))) drop_pages(conv->conv.weight);
    }
    add_seconds(index, start);
  }

  BandStats make_bands(int a) const {
    const auto maker = std::find_if(graph_.nodes().begin(), graph_.nodes().end(),
                                    [&](const Node& n) { return output_of(n).id == a; });
    const int64_t first = ops_.first_band_rows(graph_, *maker);
    BandStats bands;
    bands.groups = graph_.stats_groups({a});
    bands.batch = batch_;
    bands.band_rows = ops_.band_rows(graph_, *maker);
    const int64_t after_first = std::max<int64_t>(0, graph_.extent({a}).h - first);
    bands.bands = 1 + (after_first + bands.band_rows - 1) / bands.band_rows;
    bands.values.resize(static_cast<size_t>(bands.bands * batch_ * bands.groups));
    return bands;
  }

  // `target` is the node whose result the pass is for.
  void follow(const Step& step, int target) {
    switch (step.kind) {
      case Step::Kind::kMaterialize:
        rowed(step.activation).materialize(step.last, memory_);
        break;
      case Step::Kind::kRelease:
        rowed(step.activation).release(step.last, memory_);
        break;
      case Step::Kind::kAdopt:
        activations_[step.activation] = std::move(rowed(step.other));
        activations_.erase(step.other);
        adopted_ = {step.activation, step.other};
        break;
      case Step::Kind::kCompute:
        compute(step);
        break;
      case Step::Kind::kRead:
      case Step::Kind::kWrite:
        transfer(step);
        break;
      case Step::Kind::kAwaitRead:
      case Step::Kind::kAwaitWrite:
        await(step.activation, target);
        break;
    }
  }

  // Whole pages: a page that holds the end of one strip and the start of the next is written with
  // the next, read with the first.
  void transfer(const Step& step) {
    const int64_t bytes = row_bytes(step.activation), height = graph_.extent({step.activation}).h;
    const bool writes = step.kind == Step::Kind::kWrite;
    const auto boundary = [&](int64_t row) {
      return writes && row < height ? page_down(row * bytes) : page_up(row * bytes);
    };
    const Rowed& memory = rowed(step.activation);
    const int64_t first = boundary(step.first), last = boundary(step.last),
                  picture = memory.chunks().picture_bytes();
    for (int64_t b = 0; b < batch_; b++) {
      const int64_t offset =
          plan_.scratch_offset[static_cast<size_t>(step.activation)] + b * picture + first;
      std::byte* data = memory.data() + b * picture + first;
      ticket_[step.activation] = writes ? scratch_->write(offset, data, last - first)
                                        : scratch_->read(offset, data, last - first);
    }
  }

  // A layer waits for what it spills, and the last of a pass for what all of it read.
  void await(int activation, int node) {
    const auto start = Clock::now();
    scratch_->await(ticket_.at(activation));
    const double waited = std::chrono::duration<double>(Clock::now() - start).count();
    seconds_[static_cast<size_t>(node)] += waited;
    waits_[static_cast<size_t>(node)] += waited;
  }

  Ops::Tick make_tick(int index, double share) {
    return [this, index, share](double fraction) {
      if (!options_.progress) return;
      const double now =
          (done_flop_ + flop(index) * share * std::clamp(fraction, 0.0, 1.0)) / total_flop_;
      if (!options_.progress({std::min(now, 1.0), name_of(node(index))})) {
        fail(ErrorCode::kCancelled, "cancelled at ", name_of(node(index)));
      }
    };
  }

  void compute(const Step& step) {
    const auto start = Clock::now();
    const Node& n = node(step.node);
    const int y = output_of(n).id;
    const Extent extent = graph_.extent({y});
    const double share =
        static_cast<double>(step.last - step.first) / static_cast<double>(extent.h);
    const Ops::Tick tick = make_tick(step.node, share);
    tick(0);
    const auto bands = bands_.find(y);
    BandStats* y_stats = bands == bands_.end() ? nullptr : &bands->second;
    const auto prepared = prepared_.find(step.node);
    if (const auto* conv = std::get_if<ConvNode>(&n)) {
      ConvCall call;
      call.node = conv;
      call.batch = batch_;
      const auto [from, to] = ops_.input_rows(graph_, *conv, step.first, step.last);
      call.x = rows_of(conv->x.id, from, to);
      if (conv->norm) call.x_stats = stats_[static_cast<size_t>(conv->x.id)];
      if (conv->residual) call.residual = rows_of(conv->residual->id, step.first, step.last);
      call.y = writable(rows_of(y, step.first, step.last));
      call.y_stats = y_stats;
      if (prepared != prepared_.end()) call.prepared = prepared->second.data();
      ops_.conv(call, tick);
    } else {
      const auto& attention = std::get<AttentionNode>(n);
      AttentionCall call;
      call.node = &attention;
      call.batch = batch_;
      call.y = writable(rows_of(y, 0, extent.h));
      const bool in_place = adopted_ == std::pair(y, attention.x.id);
      call.x = in_place ? ConstRows(call.y) : rows_of(attention.x.id, 0, extent.h);
      call.x_stats = stats_[static_cast<size_t>(attention.x.id)];
      call.y_stats = y_stats;
      ops_.attention(call, tick);
    }
    done_flop_ += flop(step.node) * share;
    add_seconds(step.node, start);
  }

  void add_seconds(int index, Clock::time_point start) {
    seconds_[static_cast<size_t>(index)] +=
        std::chrono::duration<double>(Clock::now() - start).count();
  }

  LayerReport report(size_t index) const {
    const Node& n = graph_.nodes()[index];
    const double batch = static_cast<double>(batch_);
    double elements = static_cast<double>(elements_of(graph_.extent(output_of(n))));
    for (const Activation a : inputs_of(n))
      elements += static_cast<double>(elements_of(graph_.extent(a)));
    const auto times =
        std::count_if(plan_.passes.begin(), plan_.passes.end(), [&](const Pass& pass) {
          return std::find(pass.nodes.begin(), pass.nodes.end(), static_cast<int>(index)) !=
                 pass.nodes.end();
        });
    constexpr const char* kMeans[] = {"kept", "recomputed", "spilled"};
    LayerReport layer;
    layer.name = name_of(n);
    layer.algorithm = ops_.algorithm(graph_, n);
    layer.means = kMeans[static_cast<size_t>(plan_.means[static_cast<size_t>(output_of(n).id)])];
    layer.seconds = seconds_[index];
    layer.wait_seconds = waits_[index];
    layer.flop = batch * flop_of(graph_, n);
    layer.flop_executed = batch * ops_.flop_executed(graph_, n) * static_cast<double>(times);
    layer.bytes = batch * elements * static_cast<double>(element_bytes_ * times) +
                  static_cast<double>(weight_bytes(n));
    return layer;
  }

  const Graph& graph_;
  Ops& ops_;
  const ExecutionPlan& plan_;
  const int64_t batch_;
  const int64_t element_bytes_;
  const void* const input_;
  void* const output_;
  const ExecuteOptions& options_;
  RowMemory memory_;
  std::map<int, Rowed>
      activations_;                // kept to the end: spare chunks lie in the addresses of the dead
  std::map<int, Rowed> prepared_;  // likewise
  std::map<int, BandStats> bands_;  // of the pass that runs
  std::vector<std::vector<GroupStats>> stats_;
  std::map<int, int64_t> ticket_;
  std::pair<int, int> adopted_ = {-1, -1};
  std::vector<double> seconds_, waits_;  // of each node
  double total_flop_ = 0, done_flop_ = 0;
  std::optional<Scratch> scratch_;  // last: its thread ends before the memory that it fills goes
};

}  // namespace

void execute(const Graph& graph, Ops& ops, const ExecutionPlan& plan, int64_t batch,
             const void* input, void* output, const ExecuteOptions& options) {
  Execution(graph, ops, plan, batch, input, output, options).run();
}

}  // namespace calotype
