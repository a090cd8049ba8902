#include "cuda/plan.h"

#include <algorithm>

#include "core/cat.h"
#include "core/checked.h"
#include "cuda/arena.h"
#include "cuda/strips.h"

namespace calotype::cuda {
namespace {

constexpr int64_t kMomentsBytes = 12;  // three floats, see Moments
constexpr int64_t kHopperRows = 256;   // of a tile of hopper_attention
// Strips of one operation at least, where they are not less than a row of tiles: the first has
// nothing to be computed beside, and the last nothing to be uploaded beside.
constexpr int64_t kStripsWanted = 16;

int64_t round_up(int64_t value, int64_t multiple) {
  return checked_add(value, multiple - 1) / multiple * multiple;
}

int to_int(int64_t value, const std::string& name) {
  if (value > INT32_MAX)
    fail(ErrorCode::kUnsupported, name, ": ", value, " is too much for the GPU");
  return static_cast<int>(value);
}

Mode mode_of(const ConvNode& node) {
  if (node.sampling == Sampling::kUpsample) return Mode::kUp;
  if (node.sampling == Sampling::kDownsample) return Mode::kDown;
  return node.conv.kernel == 1 ? Mode::kPoint : Mode::kSame;
}

Path path_of(const Target& target) {
  return target.precision == Precision::kF32 ? Path::kSimt
         : target.hopper                     ? Path::kHopper
                                             : Path::kMma;
}

ConvPlan plan_weights(Path path, Mode mode, int64_t in, int64_t out, int64_t shortcut,
                      bool is_output, const std::string& name) {
  ConvPlan plan;
  plan.path = path;
  plan.mode = mode;
  const int channels = to_int(out, name);
  plan.row_tile = path == Path::kSimt     ? kSimtRowTile
                  : path == Path::kHopper ? hopper_row_tile(channels, is_output)
                                          : mma_row_tile(channels);
  plan.weight_rows = to_int(round_up(channels, plan.row_tile), name);
  plan.packed_elements =
      packed_elements(mode, to_int(in, name), to_int(shortcut, name), plan.weight_rows);
  return plan;
}

// What is in host memory, and how much device memory the strips of one operation may take.
struct Spill {
  std::vector<bool> on_host;  // by activation; empty: nothing
  int64_t strip_bytes = 0;
};

class Planner {
 public:
  Planner(const Graph& graph, int64_t batch, const Target& target, int64_t attention_bytes,
          const Spill& spill = {})
      : graph_(graph),
        batch_(batch),
        target_(target),
        attention_bytes_(attention_bytes),
        spill_(spill) {}

  GraphPlan plan() {
    const auto count = static_cast<size_t>(graph_.activations());
    plan_.activations.resize(count);
    plan_.by_strips = !spill_.on_host.empty();
    last_reader_.assign(count, 0);
    for (size_t i = 0; i < graph_.nodes().size(); i++) {
      for (const Activation a : inputs_of(graph_.nodes()[i])) last_reader_[index(a)] = i;
    }
    find_affine();
    place(graph_.input(), -1);
    for (size_t i = 0; i < graph_.nodes().size(); i++) {
      plan_.nodes.emplace_back();
      const Node& node = graph_.nodes()[i];
      now_ = static_cast<int64_t>(i);
      if (const auto* conv = std::get_if<ConvNode>(&node)) {
        plan_node(*conv, i);
      } else {
        plan_node(std::get<AttentionNode>(node), i);
      }
    }
    plan_.arena_bytes = arena_.deal();
    plan_.host_bytes = host_arena_.deal();
    resolve_places();
    return std::move(plan_);
  }

 private:
  static size_t index(Activation a) { return static_cast<size_t>(a.id); }
  ActivationPlan& at(Activation a) { return plan_.activations[index(a)]; }

  // Until the arena is dealt, offsets are numbers of its items.
  Place take(int64_t bytes) { return {arena_.take(bytes, now_), bytes}; }
  void give(const Place& place) { arena_.give(place.offset, now_); }
  Place take_for_now(int64_t bytes) {
    const Place place = take(bytes);
    give(place);
    return place;
  }
  std::array<Place, 2> take_two(int64_t bytes) {
    return {take_for_now(bytes), take_for_now(bytes)};
  }

  bool on_host(Activation a) const { return !spill_.on_host.empty() && spill_.on_host[index(a)]; }
  // Where the activation itself lies.
  Arena& arena_of(Activation a) { return on_host(a) ? host_arena_ : arena_; }

  void resolve_places() {
    const auto resolve = [&](Place& place) {
      if (place.offset >= 0) place.offset = arena_.offset(place.offset);
    };
    for (ActivationPlan& activation : plan_.activations) {
      if (!activation.on_host) {
        resolve(activation.place);
      } else if (activation.place.offset >= 0) {
        activation.place.offset = host_arena_.offset(activation.place.offset);
      }
      resolve(activation.moments);
    }
    for (NodePlan& node : plan_.nodes) {
      if (node.strips) {
        for (auto* pair :
             {&node.strips->x, &node.strips->residual, &node.strips->y, &node.strips->raw}) {
          for (Place& place : *pair) resolve(place);
        }
      }
      if (!node.attention) continue;
      for (Place* place : workspace(*node.attention)) resolve(*place);
    }
    resolve(plan_.affine);
  }
  static std::vector<Place*> workspace(AttentionPlan& a) {
    return {&a.normed, &a.transposed, &a.query_rows, &a.p,      &a.scores,
            &a.sums,   &a.bounds,     &a.scales,     &a.largest};
  }

  int64_t weights(const ConvPlan& conv) {
    return round_up(conv.packed_elements * target_.element_bytes(), 256) +
           round_up(conv.weight_rows * int64_t{4}, 256);
  }

  void find_affine() {
    for (const Node& node : graph_.nodes()) {
      const bool normed = std::visit(
          [](const auto& n) {
            if constexpr (requires { n.norm.has_value(); }) return n.norm.has_value();
            return true;
          },
          node);
      if (!normed) continue;
      const int64_t channels = graph_.extent(inputs_of(node).front()).c;
      plan_.affine_stride = std::max(plan_.affine_stride, round_up(channels, kSlab));
      plan_.weight_bytes += 2 * round_up(channels * 4, 256);
    }
    if (plan_.affine_stride > 0) plan_.affine = take(batch_ * plan_.affine_stride * 8);
  }

  // Memory for `a`, or that of activation `reused`.
  void place(Activation a, int reused) {
    const Extent e = graph_.extent(a);
    const std::string name = cat("an activation of ", e.h, "x", e.w, "x", e.c);
    to_int(checked_mul(checked_mul(e.h, e.w), batch_), name);
    ActivationPlan& plan = at(a);
    plan.on_host = on_host(a);
    const int64_t bytes = bytes_of(e, plan);
    if (plan.on_host && a.id == graph_.input().id) return;
    if (reused >= 0) {
      const ActivationPlan& other = plan_.activations[static_cast<size_t>(reused)];
      plan.place = {other.place.offset, bytes};
      arena_of(a).shrink(plan.place.offset, bytes, now_);
      return;
    }
    plan.place = {arena_of(a).take(bytes, now_), bytes};
  }

  // Also says how it lies there.
  int64_t bytes_of(Extent e, ActivationPlan& plan) const {
    plan.planar = path_of(target_) == Path::kHopper;
    plan.stride = stride_of(e.c, plan.planar);
    const int64_t planes = plan.planar ? (e.c + kSlab - 1) / kSlab : 1;
    return checked_mul(checked_mul(checked_mul(e.h, e.w), checked_mul(plan.stride, planes)),
                       checked_mul(batch_, target_.element_bytes()));
  }
  int64_t stride_of(int64_t channels, bool planar) const {
    if (target_.element_bytes() == 4) return channels;
    const int64_t stride = round_up(channels, 8);
    return planar ? std::min<int64_t>(stride, kSlab) : stride;
  }

  // Slots of statistics of `h` rows.
  int slots_of(const ActivationPlan& plan, const ConvPlan& conv, int64_t rows, int64_t columns) {
    const int h = static_cast<int>(rows), w = static_cast<int>(columns),
              n = static_cast<int>(batch_);
    return to_int(!plan.fused ? channel_moments_slots(n, rows * columns, target_.processors)
                  : conv.path == Path::kMma
                      ? mma_stats_slots(conv.mode, h, w)
                      : hopper_stats_slots(conv.mode, n, h, w, conv.weight_rows / conv.row_tile,
                                           target_.processors),
                  "statistics");
  }

  void plan_moments(Activation a, const ConvPlan& conv, StripPlan* strips) {
    const int groups = graph_.stats_groups(a);
    if (groups == 0) return;
    const Extent e = graph_.extent(a);
    ActivationPlan& plan = at(a);
    const int column_tiles = conv.weight_rows / conv.row_tile;
    plan.fused = conv.path != Path::kSimt && conv.row_tile == 128 && e.c / groups % 2 == 0 &&
                 (conv.path == Path::kMma || column_tiles <= kHopperColumnTiles);
    plan.width = plan.fused ? 2 : 1;
    plan.units = static_cast<int>(e.c / plan.width);
    if (strips == nullptr) {
      plan.slots = slots_of(plan, conv, e.h, e.w);
    } else {
      const int64_t before = strips->count - 1, last = e.h - before * strips->rows;
      strips->slots = slots_of(plan, conv, std::min<int64_t>(strips->rows, e.h), e.w);
      plan.slots = to_int(before * strips->slots + slots_of(plan, conv, last, e.w), "statistics");
    }
    plan.moments = take(batch_ * plan.slots * plan.units * kMomentsBytes);
  }

  // What this operation was the last to read.
  void give_inputs(const Node& node, size_t i, int kept) {
    std::vector<Activation> inputs = inputs_of(node);
    if (inputs.size() == 2 && inputs[0].id == inputs[1].id) inputs.pop_back();
    for (const Activation a : inputs) {
      if (last_reader_[index(a)] != i) continue;
      if (at(a).moments.offset >= 0) give(at(a).moments);
      if (a.id != kept && at(a).place.offset >= 0) arena_of(a).give(at(a).place.offset, now_);
    }
  }

  // The activation whose memory the result may take, since every tile reads of it only what it
  // writes itself, before it writes; -1: none.
  int overwritable(const ConvNode& node, const ConvPlan& conv, size_t i) const {
    if (!node.residual || node.residual->id == node.x.id || conv.mode == Mode::kUp ||
        conv.mode == Mode::kDown || last_reader_[index(*node.residual)] != i ||
        on_host(*node.residual) != on_host(node.y)) {
      return -1;
    }
    // A shortcut reads all channels of its pixels, so one tile must have them all. The result then
    // takes the first of its planes.
    const int64_t channels = graph_.extent(node.y).c, read = graph_.extent(*node.residual).c;
    const bool one_tile = conv.weight_rows == conv.row_tile;
    const bool fits = conv.path == Path::kHopper && one_tile && channels <= read &&
                      stride_of(channels, true) == stride_of(read, true);
    return !node.shortcut || fits ? node.residual->id : -1;
  }

  void plan_node(const ConvNode& node, size_t i) {
    const bool is_output = node.y.id == graph_.output().id;
    NodePlan& plan = plan_.nodes.back();
    plan.conv = plan_conv(node, is_output, target_);
    plan_.weight_bytes += weights(plan.conv);
    const int reused = is_output ? -1 : overwritable(node, plan.conv, i);
    if (is_output) {
      at(node.y).on_host = on_host(node.y);
    } else {
      place(node.y, reused);
    }
    if (on_host(node.x) || on_host(node.y) || (node.residual && on_host(*node.residual))) {
      plan.strips = strips_for(node, plan.conv.mode);
    }
    if (!is_output) plan_moments(node.y, plan.conv, plan.strips ? &*plan.strips : nullptr);
    give_inputs(graph_.nodes()[i], i, reused);
  }

  // Bytes of so many rows: of an activation, and of the graph's ends as the caller has them.
  int64_t strip_bytes(Activation a, int64_t rows) const {
    ActivationPlan unused;
    const Extent e = graph_.extent(a);
    return a.id == graph_.output().id ? end_bytes(a, rows) : bytes_of({rows, e.w, e.c}, unused);
  }
  int64_t end_bytes(Activation a, int64_t rows) const {
    return checked_mul(rows, graph_.extent(a).w * graph_.extent(a).c * 4);
  }

  // Device memory for the strips of one operation, of `rows` rows of its output.
  struct StripBytes {
    int64_t x = 0, raw = 0, residual = 0, y = 0;

    int64_t all() const { return (raw > 0 ? x : 2 * x) + 2 * (raw + residual + y); }
  };
  StripBytes strips_of(const ConvNode& node, Mode mode, int64_t rows) const {
    StripBytes bytes;
    if (on_host(node.x)) {
      const int64_t most = mode == Mode::kPoint  ? rows
                           : mode == Mode::kUp   ? rows / 2 + 2
                           : mode == Mode::kDown ? 2 * rows + 1
                                                 : rows + 2;
      const int64_t x_rows = std::min(graph_.extent(node.x).h, most);
      bytes.x = strip_bytes(node.x, x_rows);
      if (node.x.id == graph_.input().id) bytes.raw = end_bytes(node.x, x_rows);
    }
    if (node.residual && on_host(*node.residual))
      bytes.residual = strip_bytes(*node.residual, rows);
    if (on_host(node.y)) bytes.y = strip_bytes(node.y, rows);
    return bytes;
  }

  // Whole rows of tiles, as many as the memory for strips takes, but so few that there are strips
  // to overlap; less than a row of tiles only where memory is that scarce.
  int64_t strip_rows(const ConvNode& node, Mode mode) const {
    const int64_t height = graph_.extent(node.y).h, least = mode == Mode::kUp ? 2 : 1;
    const int64_t tile = least * (path_of(target_) == Path::kHopper ? kHopperTile : kPortableTileH);
    const int64_t most = round_up((height + kStripsWanted - 1) / kStripsWanted, tile);
    const int64_t first = strips_of(node, mode, tile).all();
    int64_t rows = tile;
    if (first <= spill_.strip_bytes) {
      const int64_t more = std::max<int64_t>(1, strips_of(node, mode, 2 * tile).all() - first);
      rows = std::min(most, tile * (1 + (spill_.strip_bytes - first) / more));
    }
    while (rows > least && strips_of(node, mode, rows).all() > spill_.strip_bytes) rows /= 2;
    return std::min(rows, height);
  }

  StripPlan strips_for(const ConvNode& node, Mode mode) {
    StripPlan plan;
    const int64_t height = graph_.extent(node.y).h, rows = strip_rows(node, mode);
    plan.rows = static_cast<int>(rows);
    plan.count = static_cast<int>((height + rows - 1) / rows);
    const StripBytes bytes = strips_of(node, mode, rows);
    if (bytes.raw > 0) {
      plan.raw = take_two(bytes.raw);
      plan.x[0] = plan.x[1] = take_for_now(bytes.x);
    } else if (bytes.x > 0) {
      plan.x = take_two(bytes.x);
    }
    if (bytes.residual > 0) plan.residual = take_two(bytes.residual);
    if (bytes.y > 0) plan.y = take_two(bytes.y);
    const int64_t up = plan.count * (bytes.raw > 0 ? bytes.raw : bytes.x);
    plan.up_bytes = up + (bytes.residual > 0 ? strip_bytes(*node.residual, height) : 0);
    plan.down_bytes = bytes.y > 0 ? strip_bytes(node.y, height) : 0;
    return plan;
  }

  void plan_node(const AttentionNode& node, size_t i) {
    if (node.y.id == graph_.output().id) {
      fail(ErrorCode::kUnsupported, node.name, ": a graph cannot end in an attention on the GPU");
    }
    const Extent e = graph_.extent(node.x);
    AttentionPlan a;
    a.hopper = target_.hopper && target_.precision == Precision::kBF16;
    // The products of the portable kernels want dense matrices.
    a.planar = a.hopper;
    const bool dense = path_of(target_) == Path::kHopper && !a.hopper;
    const Path path = dense ? Path::kMma : path_of(target_);
    a.query = plan_weights(path, Mode::kPoint, e.c, e.c, 0, false, node.name);
    a.out = a.query;
    plan_.weight_bytes += 2 * weights(a.query);
    const int reused = last_reader_[index(node.x)] == i ? node.x.id : -1;
    place(node.y, reused);
    plan_moments(node.y, a.out, nullptr);
    plan_workspace(e, a);
    for (const Place* place : workspace(a)) {
      if (place->offset >= 0) give(*place);
    }
    give_inputs(graph_.nodes()[i], i, reused);
    plan_.nodes.back().attention = a;
  }

  void plan_workspace(Extent e, AttentionPlan& a) {
    const int64_t bytes = target_.element_bytes(), tokens = e.h * e.w;
    const int64_t planes = a.planar ? (e.c + kSlab - 1) / kSlab : 1;
    const int64_t row_bytes = stride_of(e.c, a.planar) * planes * bytes;
    a.pitch = round_up(tokens, 8);
    a.normed = take(batch_ * tokens * row_bytes);
    a.query_rows = take(batch_ * tokens * row_bytes);
    a.transposed = take(batch_ * e.c * a.pitch * bytes);
    const int64_t fixed = a.normed.bytes + a.query_rows.bytes + a.transposed.bytes;
    // Bytes that one row of queries takes.
    const int64_t row = a.hopper ? a.pitch * bytes + hopper_attention_sums(1, tokens) * 4 + 8
                                 : a.pitch * (bytes + 4);
    const int64_t fitting = std::max<int64_t>(attention_bytes_ - fixed, 0) / row;
    if (fitting >= tokens) {
      a.rows = tokens;
      a.pictures = a.hopper ? std::min(batch_, fitting / tokens) : 1;
    } else {
      // So many rows that the second product's tiles are one for each multiprocessor, or fewer.
      const int64_t wave =
          kHopperRows * std::max<int64_t>(1, target_.processors / ((e.c + 127) / 128));
      const int64_t step = fitting >= wave ? wave : kHopperRows;
      a.rows = std::min(tokens, std::max(step, fitting / step * step));
    }
    const int64_t rows = a.pictures * a.rows;
    a.p = take(rows * a.pitch * bytes);
    if (a.hopper) {
      a.sums = take(hopper_attention_sums(rows, tokens) * 4);
      a.bounds = take(rows * 4);
      a.scales = take(rows * 4);
      a.largest = take(batch_ * 4);
    } else {
      a.scores = take(rows * a.pitch * 4);
    }
  }

  const Graph& graph_;
  const int64_t batch_;
  const Target target_;
  const int64_t attention_bytes_;
  const Spill spill_;
  GraphPlan plan_;
  Arena arena_, host_arena_;
  std::vector<size_t> last_reader_;
  int64_t now_ = -1;  // the operation that is planned; -1: before the first
};

// What may be in host memory: all but what attention reads and writes. An input only where it is
// the large end, a picture.
Spill everything_on_host(const Graph& graph) {
  Spill spill;
  spill.on_host.assign(static_cast<size_t>(graph.activations()), true);
  const auto pixels = [&](Activation a) { return graph.extent(a).h * graph.extent(a).w; };
  const auto keep = [&](Activation a) { spill.on_host[static_cast<size_t>(a.id)] = false; };
  if (pixels(graph.input()) <= pixels(graph.output())) keep(graph.input());
  for (const Node& node : graph.nodes()) {
    if (const auto* attention = std::get_if<AttentionNode>(&node)) {
      keep(attention->x);
      keep(attention->y);
    }
  }
  return spill;
}

// What the strips of an operation may take, the best choice first. A quarter of the memory leaves
// the rest to activations; fewer rows are uploaded more than once where strips are larger.
std::vector<int64_t> strip_sizes(int64_t room) {
  constexpr int64_t kMost = int64_t{1} << 30, kLeast = 64 << 10;
  std::vector<int64_t> sizes, larger;
  for (int64_t size = kMost; size >= kLeast; size /= 2) {
    (size <= room / 4 ? sizes : larger).push_back(size);
  }
  sizes.push_back(0);
  sizes.insert(sizes.end(), larger.rbegin(), larger.rend());
  return sizes;
}

// Brings back to the device what fits there: the smallest first, since they take the least room,
// and of the same size those that are read most often.
void keep_what_fits(const Graph& graph, const Target& target, int64_t room, Spill& spill) {
  std::vector<int> readers(spill.on_host.size(), 0), order;
  for (const Node& node : graph.nodes()) {
    for (const Activation a : inputs_of(node)) readers[static_cast<size_t>(a.id)]++;
  }
  for (int a = 0; a < graph.activations(); a++) {
    const bool is_end = a == graph.input().id || a == graph.output().id;
    if (spill.on_host[static_cast<size_t>(a)] && !is_end) order.push_back(a);
  }
  const auto size = [&](int a) {
    return graph.extent({a}).h * graph.extent({a}).w * graph.extent({a}).c;
  };
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
    if (size(a) != size(b)) return size(a) < size(b);
    return readers[static_cast<size_t>(a)] > readers[static_cast<size_t>(b)];
  });
  for (const int a : order) {
    spill.on_host[static_cast<size_t>(a)] = false;
    if (Planner(graph, 1, target, 0, spill).plan().arena_bytes > room) {
      spill.on_host[static_cast<size_t>(a)] = true;
    }
  }
}

}  // namespace

std::optional<GraphPlan> plan_strips(const Graph& graph, const Target& target, int64_t room) {
  Spill spill = everything_on_host(graph);
  for (const int64_t size : strip_sizes(room)) {
    spill.strip_bytes = size;
    if (Planner(graph, 1, target, 0, spill).plan().arena_bytes > room) continue;
    keep_what_fits(graph, target, room, spill);
    for (int sixteenths = 16; sixteenths > 0; sixteenths--) {
      GraphPlan wide = Planner(graph, 1, target, room / 16 * sixteenths, spill).plan();
      if (wide.arena_bytes <= room) return wide;
    }
    return Planner(graph, 1, target, 0, spill).plan();
  }
  return std::nullopt;
}

int64_t least_strip_room(const Graph& graph, const Target& target) {
  Spill spill = everything_on_host(graph);
  int64_t least = INT64_MAX;
  for (const int64_t size : strip_sizes(0)) {
    spill.strip_bytes = size;
    least = std::min(least, Planner(graph, 1, target, 0, spill).plan().arena_bytes);
  }
  return least;
}

ConvPlan plan_conv(const ConvNode& node, bool is_output, const Target& target) {
  return plan_weights(path_of(target), mode_of(node), node.conv.in, node.conv.out,
                      node.shortcut ? node.shortcut->in : 0, is_output, node.name);
}

GraphPlan plan_graph(const Graph& graph, int64_t batch, const Target& target) {
  // With as few rows of attention at a time as can be, then with what the other operations leave.
  Planner least(graph, batch, target, 0);
  GraphPlan plan = least.plan();
  const bool attends = std::any_of(plan.nodes.begin(), plan.nodes.end(),
                                   [](const NodePlan& node) { return node.attention.has_value(); });
  for (int sixteenths = 16; attends && sixteenths > 0; sixteenths--) {
    GraphPlan wider = Planner(graph, batch, target, plan.arena_bytes / 16 * sixteenths).plan();
    if (wider.arena_bytes <= plan.arena_bytes) return wider;
  }
  return plan;
}

}  // namespace calotype::cuda
