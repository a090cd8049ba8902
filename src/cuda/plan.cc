#include "cuda/plan.h"

#include <algorithm>

#include "core/cat.h"
#include "core/checked.h"
#include "cuda/arena.h"

namespace calotype::cuda {
namespace {

constexpr int64_t kMomentsBytes = 12;  // three floats, see Moments
constexpr int64_t kHopperRows = 256;   // of a tile of hopper_attention

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
                      bool is_output, bool fp8, const std::string& name) {
  ConvPlan plan;
  plan.path = path;
  plan.fp8 = fp8;
  plan.mode = mode;
  const int channels = to_int(out, name);
  plan.row_tile = path == Path::kSimt     ? kSimtRowTile
                  : path == Path::kHopper ? hopper_row_tile(channels, is_output)
                                          : mma_row_tile(channels, is_output);
  plan.weight_rows = to_int(round_up(channels, plan.row_tile), name);
  const int inputs = to_int(in, name), beside = to_int(shortcut, name);
  plan.packed_bytes =
      fp8 ? fp8_packed_bytes(mode, inputs, beside, plan.weight_rows)
          : packed_elements(mode, inputs, beside, plan.weight_rows) * (path == Path::kSimt ? 4 : 2);
  return plan;
}

class Planner {
 public:
  Planner(const Graph& graph, int64_t batch, const Target& target, int64_t attention_bytes)
      : graph_(graph), batch_(batch), target_(target), attention_bytes_(attention_bytes) {}

  GraphPlan plan() {
    const auto count = static_cast<size_t>(graph_.activations());
    plan_.activations.resize(count);
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
    resolve_places();
    return std::move(plan_);
  }

 private:
  static size_t index(Activation a) { return static_cast<size_t>(a.id); }
  ActivationPlan& at(Activation a) { return plan_.activations[index(a)]; }

  // Until the arena is dealt, offsets are numbers of its items.
  Place take(int64_t bytes) { return {arena_.take(bytes, now_), bytes}; }
  void give(const Place& place) { arena_.give(place.offset, now_); }

  void resolve_places() {
    const auto resolve = [&](Place& place) {
      if (place.offset >= 0) place.offset = arena_.offset(place.offset);
    };
    for (ActivationPlan& activation : plan_.activations) {
      resolve(activation.place);
      resolve(activation.moments);
    }
    for (NodePlan& node : plan_.nodes) {
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
    const int64_t row_bytes = round_up(conv.weight_rows * int64_t{4}, 256);  // bias, scale
    return round_up(conv.packed_bytes, 256) + (conv.fp8 ? 2 : 1) * row_bytes;
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
    if (reused >= 0) {
      const ActivationPlan& other = plan_.activations[static_cast<size_t>(reused)];
      plan.place = {other.place.offset, bytes_of(e, plan)};
      arena_.shrink(plan.place.offset, plan.place.bytes, now_);
      return;
    }
    plan.place = take(bytes_of(e, plan));
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

  // Of `a`, which `conv` makes from `in` channels and a shortcut's.
  void plan_moments(Activation a, const ConvPlan& conv, int64_t in, int64_t shortcut) {
    const int groups = graph_.stats_groups(a);
    if (groups == 0) return;
    const Extent e = graph_.extent(a);
    const int h = static_cast<int>(e.h), w = static_cast<int>(e.w), n = static_cast<int>(batch_);
    ActivationPlan& plan = at(a);
    const int column_tiles = conv.weight_rows / conv.row_tile;
    plan.fused = conv.path != Path::kSimt && conv.row_tile == 128 && e.c / groups % 2 == 0 &&
                 (conv.path == Path::kMma || column_tiles <= kHopperColumnTiles);
    plan.width = plan.fused ? 2 : 1;
    plan.units = static_cast<int>(e.c / plan.width);
    plan.slots = to_int(
        !plan.fused ? channel_moments_slots(n, e.h * e.w, target_.processors)
        : conv.path == Path::kMma
            ? mma_tiles(conv.mode, h, w,
                        mma_tile_h(conv.mode, n, h, w, conv.weight_rows, conv.row_tile,
                                   target_.processors, target_.shared_bytes))
            : hopper_stats_slots(conv.mode, n, h, w, column_tiles, slabs_of(static_cast<int>(in)),
                                 slabs_of(static_cast<int>(shortcut)), target_.processors),
        "statistics");
    plan.moments = take(batch_ * plan.slots * plan.units * kMomentsBytes);
  }

  // What this operation was the last to read.
  void give_inputs(const Node& node, size_t i, int kept) {
    std::vector<Activation> inputs = inputs_of(node);
    if (inputs.size() == 2 && inputs[0].id == inputs[1].id) inputs.pop_back();
    for (const Activation a : inputs) {
      if (last_reader_[index(a)] != i) continue;
      if (at(a).moments.offset >= 0) give(at(a).moments);
      if (a.id != kept) give(at(a).place);
    }
  }

  // The activation whose memory the result may take, since every tile reads of it only what it
  // writes itself, before it writes; -1: none.
  int overwritable(const ConvNode& node, const ConvPlan& conv, size_t i) const {
    if (!node.residual || node.residual->id == node.x.id || conv.mode == Mode::kUp ||
        conv.mode == Mode::kDown || last_reader_[index(*node.residual)] != i) {
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
    if (!is_output) place(node.y, reused);
    if (!is_output) {
      plan_moments(node.y, plan.conv, node.conv.in, node.shortcut ? node.shortcut->in : 0);
    }
    give_inputs(graph_.nodes()[i], i, reused);
  }

  void plan_node(const AttentionNode& node, size_t i) {
    if (node.y.id == graph_.output().id) {
      fail(ErrorCode::kUnsupported, node.name, ": a graph cannot end in an attention on the GPU");
    }
    const Extent e = graph_.extent(node.x);
    AttentionPlan a;
    a.bounded = target_.precision == Precision::kBF16 || target_.precision == Precision::kFP8;
    // The products of the portable kernels want dense matrices, those of sm_90a planar ones.
    a.hopper = target_.hopper && a.bounded;
    const bool dense = path_of(target_) == Path::kHopper && !a.hopper;
    const Path path = dense ? Path::kMma : path_of(target_);
    a.query = plan_weights(path, Mode::kPoint, e.c, e.c, 0, false, false, node.name);
    a.out = a.query;
    plan_.weight_bytes += 2 * weights(a.query);
    const int reused = last_reader_[index(node.x)] == i ? node.x.id : -1;
    place(node.y, reused);
    plan_moments(node.y, a.out, e.c, 0);
    plan_workspace(e, a);
    for (const Place* place : workspace(a)) {
      if (place->offset >= 0) give(*place);
    }
    give_inputs(graph_.nodes()[i], i, reused);
    plan_.nodes.back().attention = a;
  }

  void plan_workspace(Extent e, AttentionPlan& a) {
    const int64_t bytes = target_.element_bytes(), tokens = e.h * e.w;
    const int64_t planes = a.hopper ? (e.c + kSlab - 1) / kSlab : 1;
    const int64_t row_bytes = stride_of(e.c, a.hopper) * planes * bytes;
    a.pitch = round_up(tokens, 8);
    a.normed = take(batch_ * tokens * row_bytes);
    a.query_rows = take(batch_ * tokens * row_bytes);
    a.transposed = take(batch_ * e.c * a.pitch * bytes);
    const int64_t fixed = a.normed.bytes + a.query_rows.bytes + a.transposed.bytes;
    // Bytes that one row of queries takes.
    const int64_t parts = attention_parts(a.hopper, tokens);
    const int64_t row = a.bounded ? a.pitch * bytes + parts * 4 + 8 : a.pitch * (bytes + 4);
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
    if (a.bounded) {
      a.sums = take(rows * parts * 4);
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
  GraphPlan plan_;
  Arena arena_;
  std::vector<size_t> last_reader_;
  int64_t now_ = -1;  // the operation that is planned; -1: before the first
};

}  // namespace

ConvPlan plan_conv(const ConvNode& node, bool is_output, const Target& target) {
  const Mode mode = mode_of(node);
  const bool fp8 = target.precision == Precision::kFP8 && mode == Mode::kSame &&
                   node.norm.has_value() && !is_output;
  return plan_weights(path_of(target), mode, node.conv.in, node.conv.out,
                      node.shortcut ? node.shortcut->in : 0, is_output, fp8, node.name);
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
