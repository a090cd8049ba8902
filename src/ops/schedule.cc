#include "ops/schedule.h"

#include <algorithm>
#include <limits>
#include <map>
#include <set>

namespace calotype {
namespace {

const Node& node_at(const Graph& graph, int index) {
  return graph.nodes()[static_cast<size_t>(index)];
}

class PassMaker {
 public:
  PassMaker(const Graph& graph, const std::vector<Means>& means) : graph_(graph), means_(means) {
    maker_.assign(static_cast<size_t>(graph.activations()), -1);
    for (size_t i = 0; i < graph.nodes().size(); i++) {
      maker_[static_cast<size_t>(output_of(graph.nodes()[i]).id)] = static_cast<int>(i);
    }
    has_stats_.assign(static_cast<size_t>(graph.activations()), false);
    stored_.assign(static_cast<size_t>(graph.activations()), false);
  }

  std::vector<Pass> make() {
    for (const Node& node : graph_.nodes()) {
      const int y = output_of(node).id;
      if (!transient(y) && !stored_[static_cast<size_t>(y)]) add_pass(together_with(node), true);
    }
    find_deaths();
    return std::move(passes_);
  }

 private:
  bool transient(int a) const { return means_[static_cast<size_t>(a)] == Means::kRecompute; }

  // The nodes that make `a` from what is stored.
  void closure(int a, std::set<int>& nodes) const {
    const int maker = maker_[static_cast<size_t>(a)];
    if (!nodes.insert(maker).second) return;
    for (const Activation input : inputs_of(node_at(graph_, maker))) {
      if (transient(input.id)) closure(input.id, nodes);
    }
  }

  // What `node` makes and all that can be made on the way, of the same rows and nothing else.
  std::vector<int> together_with(const Node& node) const {
    const Activation y = output_of(node);
    std::vector<int> together = {y.id};
    const auto* first = std::get_if<ConvNode>(&node);
    for (const Node& other : graph_.nodes()) {
      const auto* conv = std::get_if<ConvNode>(&other);
      if (first == nullptr || conv == nullptr || conv == first) continue;
      if (conv->x.id != first->x.id || conv->residual || transient(conv->y.id)) continue;
      if (graph_.extent(conv->y).h == graph_.extent(y).h) together.push_back(conv->y.id);
    }
    return together;
  }

  void add_pass(const std::vector<int>& targets, bool stores) {
    std::set<int> nodes;
    for (const int target : targets) closure(target, nodes);
    for (const int index : nodes) {  // in order: an inner activation's statistics come first
      const Node& node = node_at(graph_, index);
      const Activation x = inputs_of(node).front();
      const bool normed =
          std::holds_alternative<AttentionNode>(node) || std::get<ConvNode>(node).norm.has_value();
      if (normed && !has_stats_[static_cast<size_t>(x.id)]) add_pass({x.id}, false);
    }
    Pass pass;
    pass.nodes.assign(nodes.begin(), nodes.end());
    if (stores) pass.stores = targets;
    for (const int a : pass.stores) stored_[static_cast<size_t>(a)] = true;
    for (const int index : nodes) {
      const int y = output_of(node_at(graph_, index)).id;
      if (graph_.stats_groups({y}) == 0 || has_stats_[static_cast<size_t>(y)]) continue;
      has_stats_[static_cast<size_t>(y)] = true;
      pass.collects.push_back(y);
    }
    passes_.push_back(std::move(pass));
  }

  void find_deaths() {
    std::map<int, size_t> last_reader;
    for (size_t p = 0; p < passes_.size(); p++) {
      std::set<int> made;
      for (const int index : passes_[p].nodes) {
        for (const Activation input : inputs_of(node_at(graph_, index))) {
          if (!made.contains(input.id)) last_reader[input.id] = p;
        }
        made.insert(output_of(node_at(graph_, index)).id);
      }
    }
    for (const auto& [a, p] : last_reader) {
      if (a != graph_.input().id && !transient(a)) passes_[p].dies.push_back(a);
    }
  }

  const Graph& graph_;
  const std::vector<Means>& means_;
  std::vector<int> maker_;
  std::vector<bool> has_stats_, stored_;
  std::vector<Pass> passes_;
};

// Writes down the steps of one pass.
class StepMaker {
 public:
  StepMaker(const Graph& graph, const Ops& ops, const std::vector<Means>& means, const Pass& pass)
      : graph_(graph), ops_(ops), pass_(pass) {
    for (const int index : pass.nodes) {
      const Node& node = node_at(graph, index);
      activations_[output_of(node).id].maker = index;
      for (const Activation input : inputs_of(node))
        activations_[input.id].readers.push_back(index);
    }
    target_ = output_of(node_at(graph, pass.nodes.back())).id;
    for (auto& [id, state] : activations_) {
      state.id = id;
      state.height = graph.extent({id}).h;
      state.borrowed = id == graph.input().id || id == graph.output().id;
      state.spilled = !state.borrowed && means[static_cast<size_t>(id)] == Means::kSpill;
      state.dies = std::count(pass.dies.begin(), pass.dies.end(), id) > 0;
      state.stored = std::count(pass.stores.begin(), pass.stores.end(), id) > 0;
      state.done = state.maker < 0 && !state.spilled ? state.height : 0;
    }
  }

  std::vector<Step> make(int64_t strip_rows) {
    if (adopts()) return adopting_attention();
    const Plan plan = plan_strips(strip_rows);
    for (size_t strip = 0; strip < plan.size(); strip++) {
      if (strip == 0) read(plan[0]);
      await_reads();
      if (strip + 1 < plan.size()) read(plan[strip + 1]);  // ahead, while the cores compute
      compute(plan[strip]);
      release();
      for (const int id : pass_.stores) {
        if (activations_.at(id).spilled) write_behind(activations_.at(id));
      }
    }
    for (const int id : pass_.stores) {
      State& state = activations_.at(id);
      if (!state.spilled) continue;
      steps_.push_back({.kind = Step::Kind::kAwaitWrite, .activation = id, .last = state.height});
      release_to(state, state.height);
    }
    return std::move(steps_);
  }

 private:
  struct State {
    int id = -1;
    int maker = -1;            // in this pass; -1: it is there before
    std::vector<int> readers;  // in this pass
    int64_t height = 0;
    bool borrowed = false;  // the caller's memory
    bool spilled = false, dies = false, stored = false;
    int64_t done = 0;      // rows made, or asked of the scratch file
    int64_t ready = 0;     // of these, rows that have been waited for
    int64_t released = 0;  // rows let go
    int64_t written = 0;   // rows whose writing has started
  };
  // By activation: rows that must be there when a strip is done.
  using Plan = std::vector<std::map<int, int64_t>>;

  int64_t band_end(int index, int64_t row) const {
    const Node& node = node_at(graph_, index);
    const int64_t first = ops_.first_band_rows(graph_, node), rows = ops_.band_rows(graph_, node);
    const int64_t end = row <= first ? first : first + (row - first + rows - 1) / rows * rows;
    return std::min(end, graph_.extent(output_of(node)).h);
  }

  std::pair<int64_t, int64_t> input_rows(int index, int input, int64_t first, int64_t last) const {
    const auto* conv = std::get_if<ConvNode>(&node_at(graph_, index));
    if (conv == nullptr) return {0, graph_.extent({input}).h};  // attention reads all
    std::pair<int64_t, int64_t> rows = {std::numeric_limits<int64_t>::max(), 0};
    if (conv->x.id == input) rows = ops_.input_rows(graph_, *conv, first, last);
    if (conv->residual && conv->residual->id == input) {
      rows = {std::min(rows.first, first), std::max(rows.second, last)};
    }
    return rows;
  }

  Plan plan_strips(int64_t strip_rows) const {
    Plan plan;
    std::map<int, int64_t> done;
    const int64_t height = activations_.at(target_).height;
    while (done[target_] < height) {
      std::map<int, int64_t> need = done;
      need[target_] = std::min(height, done[target_] + strip_rows);
      for (auto index = pass_.nodes.rbegin(); index != pass_.nodes.rend(); ++index) {
        const Node& node = node_at(graph_, *index);
        int64_t& end = need[output_of(node).id];
        // The target came first.
        if (activations_.at(output_of(node).id).stored) end = std::max(end, need[target_]);
        if (end <= done[output_of(node).id]) continue;
        end = std::holds_alternative<AttentionNode>(node) ? graph_.extent(output_of(node)).h
                                                          : band_end(*index, end);
        for (const Activation input : inputs_of(node)) {
          const int64_t last = input_rows(*index, input.id, done[output_of(node).id], end).second;
          need[input.id] = std::max(need[input.id], last);
        }
      }
      plan.push_back(need);
      done = need;
    }
    return plan;
  }

  void read(const std::map<int, int64_t>& need) {
    for (auto& [id, state] : activations_) {
      if (!state.spilled || state.maker >= 0 || need.at(id) <= state.done) continue;
      steps_.push_back({.kind = Step::Kind::kMaterialize,
                        .activation = id,
                        .first = state.done,
                        .last = need.at(id)});
      steps_.push_back(
          {.kind = Step::Kind::kRead, .activation = id, .first = state.done, .last = need.at(id)});
      state.done = need.at(id);
    }
  }

  void await_reads() {
    for (auto& [id, state] : activations_) {
      if (!state.spilled || state.maker >= 0 || state.ready == state.done) continue;
      steps_.push_back({.kind = Step::Kind::kAwaitRead, .activation = id, .last = state.done});
      state.ready = state.done;
    }
  }

  void compute(const std::map<int, int64_t>& need) {
    for (const int index : pass_.nodes) {
      State& y = activations_.at(output_of(node_at(graph_, index)).id);
      const int64_t last = need.at(y.id);
      if (last <= y.done) continue;
      if (!y.borrowed) {
        steps_.push_back(
            {.kind = Step::Kind::kMaterialize, .activation = y.id, .first = y.done, .last = last});
      }
      steps_.push_back(
          {.kind = Step::Kind::kCompute, .node = index, .first = y.done, .last = last});
      y.done = last;
    }
  }

  void release_to(State& state, int64_t row) {
    if (state.borrowed || row <= state.released) return;
    steps_.push_back({.kind = Step::Kind::kRelease, .activation = state.id, .last = row});
    state.released = row;
  }

  // Rows above what every reader in this pass still wants, of activations that nobody reads later.
  void release() {
    for (auto& [id, state] : activations_) {
      const bool target = id == target_;
      if (state.stored) continue;
      const bool passing = state.maker >= 0 || state.spilled || state.dies;
      if (!passing) continue;
      int64_t row = target ? state.done : state.height;
      for (const int reader : state.readers) {
        const State& y = activations_.at(output_of(node_at(graph_, reader)).id);
        if (y.done < y.height)
          row = std::min(row, input_rows(reader, id, y.done, y.done + 1).first);
      }
      release_to(state, row);
    }
  }

  // The strip before this one must be in the file before its memory goes; this one is written while
  // the next is computed.
  void write_behind(State& state) {
    if (state.written > 0) {
      steps_.push_back(
          {.kind = Step::Kind::kAwaitWrite, .activation = state.id, .last = state.written});
      release_to(state, state.written);
    }
    steps_.push_back({.kind = Step::Kind::kWrite,
                      .activation = state.id,
                      .first = state.written,
                      .last = state.done});
    state.written = state.done;
  }

  // Attention may write over its input where nobody reads that later.
  bool adopts() const {
    if (!std::holds_alternative<AttentionNode>(node_at(graph_, pass_.nodes.front()))) return false;
    const State& x = activations_.at(inputs_of(node_at(graph_, pass_.nodes.front())).front().id);
    const State& y = activations_.at(target_);
    return pass_.nodes.size() == 1 && y.stored && !x.borrowed && !x.spilled && x.dies &&
           !y.borrowed && !y.spilled;
  }

  std::vector<Step> adopting_attention() {
    const int index = pass_.nodes.front();
    const int x = inputs_of(node_at(graph_, index)).front().id;
    return {{.kind = Step::Kind::kAdopt, .activation = target_, .other = x},
            {.kind = Step::Kind::kCompute,
             .node = index,
             .first = 0,
             .last = activations_.at(target_).height}};
  }

  const Graph& graph_;
  const Ops& ops_;
  const Pass& pass_;
  int target_ = -1;
  std::map<int, State> activations_;
  std::vector<Step> steps_;
};

}  // namespace

std::vector<Pass> make_passes(const Graph& graph, const std::vector<Means>& means) {
  return PassMaker(graph, means).make();
}

bool may_have(const Graph& graph, Activation a, Means means) {
  if (a.id == graph.input().id || a.id == graph.output().id) return means == Means::kKeep;
  if (means != Means::kRecompute) return true;
  return std::none_of(graph.nodes().begin(), graph.nodes().end(), [&](const Node& node) {
    const auto* attention = std::get_if<AttentionNode>(&node);
    return attention != nullptr && (attention->x.id == a.id || attention->y.id == a.id);
  });
}

std::vector<Step> make_steps(const Graph& graph, const Ops& ops, const std::vector<Means>& means,
                             const Pass& pass, int64_t strip_rows) {
  return StepMaker(graph, ops, means, pass).make(strip_rows);
}

}  // namespace calotype
