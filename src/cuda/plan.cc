#include "cuda/plan.h"

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

ConvPlan plan_weights(Mode mode, int64_t in, int64_t out, int64_t shortcut, bool is_output,
                      const Target& target, const std::string& name) {
  ConvPlan plan;
  plan.mode = mode;
  const int channels = to_int(out, name);
  if (target.precision == Precision::kF32) {
    plan.path = Path::kSimt;
    plan.row_tile = kSimtRowTile;
  } else if (target.hopper) {
    plan.path = Path::kHopper;
    plan.row_tile = hopper_row_tile(channels, is_output);
  } else {
    plan.path = Path::kMma;
    plan.row_tile = mma_row_tile(channels);
  }
  plan.weight_rows = to_int(round_up(channels, plan.row_tile), name);
  plan.packed_elements =
      packed_elements(mode, to_int(in, name), to_int(shortcut, name), plan.weight_rows);
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
      if (const auto* conv = std::get_if<ConvNode>(&node)) {
        plan_node(*conv, i);
      } else {
        plan_node(std::get<AttentionNode>(node), i);
      }
    }
    plan_.arena_bytes = arena_.size();
    return std::move(plan_);
  }
  // Bytes that are alive beside the first attention's workspace.
  int64_t live_beside_attention() const { return live_beside_attention_; }

 private:
  static size_t index(Activation a) { return static_cast<size_t>(a.id); }
  ActivationPlan& at(Activation a) { return plan_.activations[index(a)]; }

  Place take(int64_t bytes) { return {arena_.take(bytes), bytes}; }
  void give(Place& place) { arena_.give(place.offset); }

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
    if (reused >= 0) {
      const ActivationPlan& other = plan_.activations[static_cast<size_t>(reused)];
      plan.place = other.place;
      plan.stride = other.stride;
      return;
    }
    plan.stride = target_.element_bytes() == 2 ? round_up(e.c, 8) : e.c;
    plan.place = take(checked_mul(checked_mul(checked_mul(e.h, e.w), plan.stride),
                                  checked_mul(batch_, target_.element_bytes())));
  }

  void plan_moments(Activation a, const ConvPlan& conv) {
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
    plan.slots =
        to_int(!plan.fused ? channel_moments_slots(n, e.h * e.w, target_.processors)
               : conv.path == Path::kMma
                   ? mma_stats_slots(conv.mode, h, w)
                   : hopper_stats_slots(conv.mode, n, h, w, column_tiles, target_.processors),
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
    // lies in the first channels of each pixel.
    const bool one_tile = conv.weight_rows == conv.row_tile;
    const bool fits = graph_.extent(node.y).c <= graph_.extent(*node.residual).c;
    return !node.shortcut || (one_tile && fits) ? node.residual->id : -1;
  }

  void plan_node(const ConvNode& node, size_t i) {
    const bool is_output = node.y.id == graph_.output().id;
    NodePlan& plan = plan_.nodes.back();
    plan.conv = plan_conv(node, is_output, target_);
    plan_.weight_bytes += weights(plan.conv);
    const int reused = is_output ? -1 : overwritable(node, plan.conv, i);
    if (!is_output) place(node.y, reused);
    if (!is_output) plan_moments(node.y, plan.conv);
    give_inputs(graph_.nodes()[i], i, reused);
  }

  void plan_node(const AttentionNode& node, size_t i) {
    if (node.y.id == graph_.output().id) {
      fail(ErrorCode::kUnsupported, node.name, ": a graph cannot end in an attention on the GPU");
    }
    const Extent e = graph_.extent(node.x);
    AttentionPlan a;
    a.hopper = target_.hopper && target_.precision == Precision::kBF16;
    a.query = plan_weights(Mode::kPoint, e.c, e.c, 0, false, target_, node.name);
    a.out = a.query;
    plan_.weight_bytes += 2 * weights(a.query);
    const int reused = last_reader_[index(node.x)] == i ? node.x.id : -1;
    place(node.y, reused);
    plan_moments(node.y, a.out);
    if (live_beside_attention_ == 0) live_beside_attention_ = arena_.live();
    plan_workspace(e, a);
    for (Place* place : {&a.normed, &a.transposed, &a.query_rows, &a.p, &a.scores, &a.sums,
                         &a.bounds, &a.scales, &a.largest}) {
      if (place->offset >= 0) give(*place);
    }
    give_inputs(graph_.nodes()[i], i, reused);
    plan_.nodes.back().attention = a;
  }

  void plan_workspace(Extent e, AttentionPlan& a) {
    const int64_t bytes = target_.element_bytes(), tokens = e.h * e.w;
    const int64_t stride = bytes == 2 ? round_up(e.c, 8) : e.c;
    a.pitch = round_up(tokens, 8);
    a.normed = take(batch_ * tokens * stride * bytes);
    a.query_rows = take(batch_ * tokens * stride * bytes);
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
  GraphPlan plan_;
  Arena arena_;
  std::vector<size_t> last_reader_;
  int64_t live_beside_attention_ = 0;
};

}  // namespace

ConvPlan plan_conv(const ConvNode& node, bool is_output, const Target& target) {
  return plan_weights(mode_of(node), node.conv.in, node.conv.out,
                      node.shortcut ? node.shortcut->in : 0, is_output, target, node.name);
}

GraphPlan plan_graph(const Graph& graph, int64_t batch, const Target& target) {
  // With as few rows of attention at a time as can be, then with what the other operations leave.
  Planner least(graph, batch, target, 0);
  GraphPlan plan = least.plan();
  const int64_t spare = plan.arena_bytes - least.live_beside_attention();
  for (int64_t bytes = spare; bytes > spare / 2; bytes -= spare / 16 + 1) {
    GraphPlan wider = Planner(graph, batch, target, bytes).plan();
    if (wider.arena_bytes <= plan.arena_bytes) return wider;
  }
  return plan;
}

}  // namespace calotype::cuda
