#include "ops/planner.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "core/cat.h"
#include "core/checked.h"
#include "ops/row_memory.h"
#include "ops/scratch.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace calotype {
namespace {

// A call costs this much besides its arithmetic: threads wake up and wait for the last of them.
constexpr double kCallSeconds = 3e-4;
constexpr int64_t kMostStrips = 256;
// Strips of a pass, in bands of its target; 0: the whole picture at once.
constexpr int64_t kWhole = 0;
// Enough blocks for many cores, and few calls.
constexpr int64_t kEasyBands = 8;
// Of the ladder of budgets that plans are looked for in: a step of them is a sixth of the memory
// where the largest plan takes four times the smallest.
constexpr int kMostRungs = 8;

struct PassCost {
  int64_t start = 0;     // bytes of the activations that are there when it starts
  int64_t rows = 0;      // most bytes of activations while it runs
  int64_t prepared = 0;  // bytes of its prepared weights
  int64_t weights = 0;   // most bytes of mapped weights, read before it runs
  int64_t output = 0;    // bytes of the caller's output, where it is written
  WorkspaceBytes workspace;
  double seconds = 0;
  double flop = 0;
  int64_t written = 0;

  // Of all that the pass has for itself.
  int64_t own_peak() const {
    return checked_add(checked_add(std::max(checked_add(start, weights), rows), prepared),
                       checked_add(workspace.total(), output));
  }
};

struct Evaluation {
  std::vector<Pass> passes;
  std::vector<std::vector<bool>> touched;  // activations, of each pass
  std::vector<const PassCost*> costs;
  std::vector<int64_t> peaks;  // of each pass, all that is alive counted
  double seconds = 0;
  int64_t peak = 0;

  // Bytes over the budget, added up over the passes.
  double excess(int64_t budget) const {
    double sum = 0;
    for (const int64_t p : peaks) sum += static_cast<double>(std::max<int64_t>(0, p - budget));
    return sum;
  }
};

class Planner {
 public:
  Planner(const Graph& graph, const Ops& ops, int64_t batch, const PlanOptions& options)
      : graph_(graph), ops_(ops), batch_(batch), options_(options) {
    int64_t largest = 0;
    for (int a = 0; a < graph.activations(); a++) largest = std::max(largest, picture_bytes(a));
    for (const Node& node : graph.nodes())
      largest = std::max(largest, ops.prepared_bytes(graph, node));
    chunk_bytes_ = chunk_bytes_for(largest);
    for (const Node& node : graph.nodes()) {
      flop_.push_back(static_cast<double>(batch) * ops.flop_executed(graph, node));
      prepared_.push_back((ops.prepared_bytes(graph, node) + chunk_bytes_ - 1) / chunk_bytes_ *
                          chunk_bytes_);
    }
  }

  // More memory must never give a slower plan, so plans are looked for in budgets that do not
  // depend on the one that is given (the rungs of a ladder), and the fastest of all that fit is
  // taken: more memory only adds to them.
  ExecutionPlan fastest() {
    const std::vector<Means> keep(static_cast<size_t>(graph_.activations()), Means::kKeep);
    const Choice keep_all = {keep, kWhole}, strips = {keep, kEasyBands};
    // Strips where memory is highest cost next to nothing: rows go as soon as they were read.
    const int64_t most = std::min(evaluate(keep_all).peak, evaluate(strips).peak);
    const bool bounded = options_.memory > 0 && options_.memory < most;
    ExecutionPlan unbounded = finish(strips, most);
    if (!bounded) return unbounded;
    const Choice smallest = this->smallest();
    const int64_t least = evaluate(smallest).peak;
    if (least > options_.memory) {
      fail(ErrorCode::kOutOfMemory, "the job needs ", least, " bytes, but only ", options_.memory,
           " are left for it");
    }
    constexpr int64_t kBands[] = {kWhole, kEasyBands, 4, 2, 1};
    std::vector<Choice> choices = {smallest, grow(smallest, least)};
    for (const int64_t bands : kBands) choices.push_back({keep, bands});
    const double ratio = static_cast<double>(most) / static_cast<double>(least);
    // A job of a moment is not worth a long search.
    const int rungs = std::clamp(static_cast<int>(2 * unbounded.seconds), 2, kMostRungs);
    for (int rung = 0; rung < rungs; rung++) {
      const auto budget = static_cast<int64_t>(static_cast<double>(least) *
                                               std::pow(ratio, rung / static_cast<double>(rungs)));
      if (budget > options_.memory) break;
      choices.push_back(grow(smallest, budget));
      for (const int64_t bands : kBands) {
        const std::optional<Choice> found = shrink({keep, bands}, budget);
        if (found) choices.push_back(grow(*found, budget));
      }
    }
    ExecutionPlan best = finish(choices.front(), options_.memory);
    for (const Choice& choice : choices) {
      if (evaluate(choice).peak > options_.memory) continue;
      ExecutionPlan plan = finish(choice, options_.memory);
      if (plan.seconds < best.seconds) best = std::move(plan);
    }
    // By a call or two less a plan may seem faster than that of all memory; it is not.
    best.seconds = std::max(best.seconds, unbounded.seconds);
    return best;
  }

  ExecutionPlan least() { return finish(smallest(), 0); }

 private:
  struct Choice {
    std::vector<Means> means;
    int64_t bands = kWhole;  // of a strip
  };

  int64_t row_bytes(int a) const {
    const Extent e = graph_.extent({a});
    return checked_mul(checked_mul(e.w, e.c), byte_count(ops_.element(), {1}));
  }
  int64_t picture_bytes(int a) const { return checked_mul(row_bytes(a), graph_.extent({a}).h); }
  RowChunks chunks(int a) const {
    return {batch_, graph_.extent({a}).h, row_bytes(a), chunk_bytes_};
  }
  int64_t whole_bytes(int a) const {
    RowChunks all = chunks(a);
    all.materialize(graph_.extent({a}).h);
    return checked_mul(all.alive(), chunk_bytes_);
  }
  bool borrowed(int a) const { return a == graph_.input().id || a == graph_.output().id; }

  int64_t strip_rows(const Pass& pass, int64_t bands) const {
    const Node& node = graph_.nodes()[static_cast<size_t>(pass.nodes.back())];
    const int64_t height = graph_.extent(output_of(node)).h;
    if (bands == kWhole) return height;
    return std::max(bands * ops_.band_rows(graph_, node), (height + kMostStrips - 1) / kMostStrips);
  }

  // What a pass costs whatever else is alive; remembered, since most passes of two choices are the
  // same.
  const PassCost& cost(const Pass& pass, const Choice& choice) {
    std::vector<int> key = {static_cast<int>(choice.bands)};
    key.insert(key.end(), pass.stores.begin(), pass.stores.end());
    key.push_back(-1);
    key.insert(key.end(), pass.nodes.begin(), pass.nodes.end());
    key.push_back(-1);
    key.insert(key.end(), pass.dies.begin(), pass.dies.end());
    key.push_back(-1);
    for (const int index : pass.nodes) {
      const Node& node = graph_.nodes()[static_cast<size_t>(index)];
      key.push_back(static_cast<int>(choice.means[static_cast<size_t>(output_of(node).id)]));
      for (const Activation a : inputs_of(node))
        key.push_back(static_cast<int>(choice.means[static_cast<size_t>(a.id)]));
    }
    const auto [found, is_new] = costs_.try_emplace(std::move(key));
    if (is_new) found->second = measure(pass, choice);
    return found->second;
  }

  PassCost measure(const Pass& pass, const Choice& choice) const {
    PassCost cost;
    double traffic = 0;     // bytes of activations read and written
    int64_t read_late = 0;  // mapped weights that attention reads while it runs
    for (const int index : pass.nodes) {
      const auto i = static_cast<size_t>(index);
      const Node& node = graph_.nodes()[i];
      cost.flop += flop_[i];
      traffic += static_cast<double>(picture_bytes(output_of(node).id) * batch_);
      for (const Activation input : inputs_of(node))
        traffic += static_cast<double>(picture_bytes(input.id) * batch_);
      cost.prepared = checked_add(cost.prepared, prepared_[i]);
      if (!options_.mapped_weights) continue;
      int64_t& weights = std::holds_alternative<AttentionNode>(node) ? read_late : cost.weights;
      weights = std::max(weights, weight_bytes(node));
    }
    std::map<int, RowChunks> memory;
    const auto of = [&](int a) -> RowChunks& {
      return memory.try_emplace(a, chunks(a)).first->second;
    };
    int64_t alive = 0, peak = 0, calls = 0, moved = 0;
    // What is kept and read here is there at the start.
    const std::set<int> made = made_by(pass);
    const std::vector<bool> all = touched(pass);
    for (int a = 0; a < graph_.activations(); a++) {
      if (!all[static_cast<size_t>(a)] || made.contains(a) || borrowed(a) ||
          choice.means[static_cast<size_t>(a)] == Means::kSpill)
        continue;
      of(a).materialize(graph_.extent({a}).h);
      alive += of(a).alive();
    }
    if (made.contains(graph_.output().id)) cost.output = options_.output_bytes;
    peak = alive;
    cost.start = checked_mul(alive, chunk_bytes_);
    std::map<int, int64_t> most_rows;  // of a call, by node
    for (const Step& step :
         make_steps(graph_, ops_, choice.means, pass, strip_rows(pass, choice.bands))) {
      switch (step.kind) {
        case Step::Kind::kMaterialize: {
          const auto [first, last] = of(step.activation).materialize(step.last);
          alive += (last - first) * batch_;
          peak = std::max(peak, alive);
          break;
        }
        case Step::Kind::kRelease: {
          const auto [first, last] = of(step.activation).release(step.last);
          alive -= (last - first) * batch_;
          break;
        }
        case Step::Kind::kRead:
          moved += (step.last - step.first) * row_bytes(step.activation) * batch_;
          break;
        case Step::Kind::kWrite:
          moved += (step.last - step.first) * row_bytes(step.activation) * batch_;
          cost.written += (step.last - step.first) * row_bytes(step.activation) * batch_;
          break;
        case Step::Kind::kCompute:
          calls++;
          most_rows[step.node] = std::max(most_rows[step.node], step.last - step.first);
          break;
        default:
          break;
      }
    }
    for (const auto& [index, rows] : most_rows) {
      cost.workspace = cost.workspace.at_least(
          ops_.workspace(graph_, graph_.nodes()[static_cast<size_t>(index)], batch_, rows));
    }
    cost.rows = checked_add(checked_mul(peak, chunk_bytes_), read_late);
    const MachineSpeed& speed = options_.speed;
    const double computing =
        std::max(cost.flop / speed.flop_per_second, traffic / speed.memory_per_second) +
        static_cast<double>(cost.prepared) / speed.prepared_per_second +
        static_cast<double>(calls) * kCallSeconds;
    const double moving = static_cast<double>(moved) / speed.disk_per_second;
    // In one strip nothing is left to compute meanwhile.
    const bool one_strip = calls <= static_cast<int64_t>(pass.nodes.size());
    cost.seconds = one_strip ? computing + moving : std::max(computing, moving);
    return cost;
  }

  std::set<int> made_by(const Pass& pass) const {
    std::set<int> made;
    for (const int index : pass.nodes)
      made.insert(output_of(graph_.nodes()[static_cast<size_t>(index)]).id);
    return made;
  }

  std::vector<bool> touched(const Pass& pass) const {
    std::vector<bool> all(static_cast<size_t>(graph_.activations()));
    for (const int index : pass.nodes) {
      const Node& node = graph_.nodes()[static_cast<size_t>(index)];
      all[static_cast<size_t>(output_of(node).id)] = true;
      for (const Activation a : inputs_of(node)) all[static_cast<size_t>(a.id)] = true;
    }
    return all;
  }

  Evaluation evaluate(const Choice& choice) {
    Evaluation result;
    result.passes = make_passes(graph_, choice.means);
    std::map<int, int64_t> kept;  // alive between passes
    for (const Pass& pass : result.passes) {
      if (options_.tick) options_.tick();
      const PassCost& cost = this->cost(pass, choice);
      std::vector<bool> own = touched(pass);
      int64_t peak = cost.own_peak();
      for (const auto& [a, bytes] : kept) {
        if (!own[static_cast<size_t>(a)]) peak = checked_add(peak, bytes);
      }
      result.touched.push_back(std::move(own));
      result.costs.push_back(&cost);
      result.peaks.push_back(peak);
      result.peak = std::max(result.peak, peak);
      result.seconds += cost.seconds;
      for (const int a : pass.stores) {
        if (!borrowed(a) && choice.means[static_cast<size_t>(a)] == Means::kKeep)
          kept[a] = whole_bytes(a);
      }
      for (const int a : pass.dies) kept.erase(a);
    }
    return result;
  }

  bool allowed(int a, Means means) const {
    return may_have(graph_, {a}, means) && (means != Means::kSpill || options_.may_spill);
  }

  // Changes one activation's means after another, the one first that saves the most bytes for its
  // time, until all fits.
  std::optional<Choice> shrink(Choice choice, int64_t budget) {
    for (Evaluation now = evaluate(choice); now.peak > budget; now = evaluate(choice)) {
      const double excess = now.excess(budget);
      double best_score = 0;
      Choice best = choice;
      for (int a = 0; a < graph_.activations(); a++) {
        if (!matters(a, now, budget)) continue;
        for (const Means means : {Means::kKeep, Means::kRecompute, Means::kSpill}) {
          if (means == choice.means[static_cast<size_t>(a)] || !allowed(a, means)) continue;
          Choice other = choice;
          other.means[static_cast<size_t>(a)] = means;
          const Evaluation then = evaluate(other);
          const double saved = excess - then.excess(budget);
          if (saved <= 0) continue;
          const double score = saved / std::max(then.seconds - now.seconds, 1e-4);
          if (score <= best_score) continue;
          best_score = score;
          best = std::move(other);
        }
      }
      if (best_score == 0) return {};
      choice = std::move(best);
    }
    return choice;
  }

  // Whether an activation is alive in a pass that does not fit.
  bool matters(int a, const Evaluation& now, int64_t budget) const {
    bool alive = false;
    for (size_t p = 0; p < now.passes.size(); p++) {
      alive = alive || now.touched[p][static_cast<size_t>(a)];
      if (alive && now.peaks[p] > budget) return true;
      const auto& dies = now.passes[p].dies;
      if (std::find(dies.begin(), dies.end(), a) != dies.end()) alive = false;
    }
    return false;
  }

  // Keeps what a plan that fits need not recompute or spill, the dearest first.
  Choice grow(Choice choice, int64_t budget) {
    for (bool changed = true; changed;) {
      changed = false;
      const double seconds = evaluate(choice).seconds;
      double best_saved = 0;
      Choice best = choice;
      for (int a = 0; a < graph_.activations(); a++) {
        for (const Means means : {Means::kKeep, Means::kRecompute}) {
          if (choice.means[static_cast<size_t>(a)] == means || !allowed(a, means)) continue;
          Choice other = choice;
          other.means[static_cast<size_t>(a)] = means;
          const Evaluation then = evaluate(other);
          if (then.peak > budget || seconds - then.seconds <= best_saved) continue;
          best_saved = seconds - then.seconds;
          best = std::move(other);
        }
      }
      if (best_saved > 1e-9) {
        choice = std::move(best);
        changed = true;
      }
    }
    return choice;
  }

  // From all spilled; once with what attention reads and makes in memory, where it works in place:
  // either alone would save nothing.
  Choice smallest() {
    std::set<int> of_attention;
    for (const Node& node : graph_.nodes()) {
      if (!std::holds_alternative<AttentionNode>(node)) continue;
      of_attention.insert(inputs_of(node).front().id);
      of_attention.insert(output_of(node).id);
    }
    Choice choice = shrunk({});
    const Choice in_place = shrunk(of_attention);
    if (evaluate(in_place).peak < evaluate(choice).peak) choice = in_place;
    // Of a small job strips and buffers take more than they save.
    for (const int64_t bands : {kWhole, kEasyBands}) {
      const Choice keep = {std::vector<Means>(choice.means.size(), Means::kKeep), bands};
      if (evaluate(keep).peak <= evaluate(choice).peak) choice = keep;
    }
    return choice;
  }

  // The smallest choice that single changes lead to from all spilled but what is `kept`.
  Choice shrunk(const std::set<int>& kept) {
    Choice choice = {std::vector<Means>(static_cast<size_t>(graph_.activations()), Means::kKeep),
                     1};
    for (int a = 0; a < graph_.activations(); a++) {
      if (allowed(a, Means::kSpill) && !kept.contains(a))
        choice.means[static_cast<size_t>(a)] = Means::kSpill;
    }
    for (;;) {
      const int64_t peak = evaluate(choice).peak;
      const std::optional<Choice> smaller = shrink(choice, peak - 1);
      if (!smaller) return choice;
      choice = *smaller;
    }
  }

  // Whole passes where strips buy nothing.
  ExecutionPlan finish(const Choice& choice, int64_t budget) {
    const Evaluation result = evaluate(choice);
    ExecutionPlan plan;
    plan.means = choice.means;
    plan.passes = result.passes;
    plan.chunk_bytes = chunk_bytes_;
    std::set<int> computed;
    for (size_t p = 0; p < plan.passes.size(); p++) {
      const Pass& pass = plan.passes[p];
      const PassCost& whole = cost(pass, {choice.means, kWhole});
      const PassCost& strips = *result.costs[p];
      const int64_t others = result.peaks[p] - strips.own_peak();
      const int64_t peak = others + whole.own_peak();
      const bool fits =
          peak <= (budget > 0 ? budget : result.peak) && whole.seconds <= strips.seconds;
      const PassCost& taken = fits ? whole : strips;
      plan.strip_rows.push_back(strip_rows(pass, fits ? kWhole : choice.bands));
      plan.memory.push_back(
          {others + taken.rows + taken.prepared, taken.weights, taken.output, taken.workspace});
      plan.peak_bytes = std::max(plan.peak_bytes, others + taken.own_peak());
      plan.seconds += taken.seconds;
      plan.flop_executed += strips.flop;
      plan.spilled_bytes += strips.written;
      for (const int index : pass.nodes) {
        if (!computed.insert(index).second) plan.flop_again += flop_[static_cast<size_t>(index)];
      }
    }
    place_in_scratch(plan);
    return plan;
  }

  // First-fit places in the scratch file for what is spilled, from its maker to its last reader.
  void place_in_scratch(ExecutionPlan& plan) const {
    struct Place {
      int64_t start, end;
      int activation;
    };
    std::vector<Place> taken;  // by start
    plan.scratch_offset.assign(static_cast<size_t>(graph_.activations()), -1);
    for (const Pass& pass : plan.passes) {
      for (const int a : pass.stores) {
        if (borrowed(a) || plan.means[static_cast<size_t>(a)] != Means::kSpill) continue;
        const int64_t bytes = checked_mul(chunks(a).picture_bytes(), batch_);
        int64_t start = 0;
        auto place = taken.begin();
        for (; place != taken.end() && place->start - start < bytes; ++place) start = place->end;
        plan.scratch_offset[static_cast<size_t>(a)] = start;
        taken.insert(place, {start, checked_add(start, bytes), a});
        plan.scratch_bytes = std::max(plan.scratch_bytes, start + bytes);
      }
      std::erase_if(taken, [&](const Place& p) {
        return std::find(pass.dies.begin(), pass.dies.end(), p.activation) != pass.dies.end();
      });
    }
  }

  const Graph& graph_;
  const Ops& ops_;
  const int64_t batch_;
  const PlanOptions options_;
  int64_t chunk_bytes_ = 0;
  std::vector<double> flop_;
  std::vector<int64_t> prepared_;
  std::map<std::vector<int>, PassCost> costs_;
};

// What the search took would stay resident beside the job that was planned.
void return_free_heap() {
#ifdef __GLIBC__
  ::malloc_trim(0);
#endif
}

}  // namespace

int64_t weight_bytes(const Node& node) {
  const auto bytes = [](const TensorView& view) { return byte_count(view.dtype, view.shape); };
  if (const auto* conv = std::get_if<ConvNode>(&node)) return bytes(conv->conv.weight);
  const AttentionWeights& w = std::get<AttentionNode>(node).weights;
  return bytes(w.query) + bytes(w.key) + bytes(w.value) + bytes(w.out);
}

ExecutionPlan plan_execution(const Graph& graph, const Ops& ops, int64_t batch,
                             const PlanOptions& options) {
  ExecutionPlan plan = Planner(graph, ops, batch, options).fastest();
  return_free_heap();
  return plan;
}

ExecutionPlan smallest_plan(const Graph& graph, const Ops& ops, int64_t batch,
                            const PlanOptions& options) {
  ExecutionPlan plan = Planner(graph, ops, batch, options).least();
  return_free_heap();
  return plan;
}

}  // namespace calotype
