// The steps of a plan, followed on paper: whoever computes finds every row that it reads, and no
// more memory is alive than the plan says.
#include "ops/schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "model/decoder.h"
#include "model/encoder.h"
#include "model/tensor_source.h"
#include "ops/planner.h"
#include "ops/row_memory.h"
#include "reference/reference_ops.h"
#include "support/random.h"
#include "support/random_vae.h"

namespace calotype::test {
namespace {

// Rows [released, made) of an activation are alive; of a spilled one those before `written` are in
// the file.
struct Paper {
  int64_t materialized = 0, made = 0, released = 0, written = 0;
};

class Simulation {
 public:
  Simulation(const Graph& graph, const Ops& ops, int64_t batch, const ExecutionPlan& plan)
      : graph_(graph), ops_(ops), batch_(batch), plan_(plan) {
    for (int a = 0; a < graph.activations(); a++) {
      const Extent e = graph.extent({a});
      chunks_.emplace_back(batch, e.h, e.w * e.c * 8, plan.chunk_bytes);
    }
    papers_.resize(chunks_.size());
    papers_[0].made = papers_[0].materialized = graph.extent(graph.input()).h;
  }

  void run() {
    for (size_t p = 0; p < plan_.passes.size(); p++) run_pass(plan_.passes[p], plan_.strip_rows[p]);
    const int y = graph_.output().id;
    EXPECT_EQ(papers_[static_cast<size_t>(y)].made, graph_.extent({y}).h);
    EXPECT_LE(peak_, plan_.peak_bytes);
    for (const int a : kept_alive()) {
      ADD_FAILURE() << "activation " << a << " is alive at the end";
    }
  }

 private:
  // From the first row; what the scratch file holds stays.
  void start_again(int a) { paper(a) = {.written = paper(a).written}; }
  bool callers(int a) const { return a == 0 || a == graph_.output().id; }
  Paper& paper(int a) { return papers_[static_cast<size_t>(a)]; }

  std::vector<int> kept_alive() const {
    std::vector<int> list;
    for (int a = 0; a < graph_.activations(); a++) {
      if (!callers(a) && chunks_[static_cast<size_t>(a)].alive() > 0) list.push_back(a);
    }
    return list;
  }

  void run_pass(const Pass& pass, int64_t strip_rows) {
    for (const int index : pass.nodes) {
      const Node& node = graph_.nodes()[static_cast<size_t>(index)];
      for (const Activation x : inputs_of(node)) {
        if (plan_.means[static_cast<size_t>(x.id)] == Means::kSpill) start_again(x.id);
      }
      if (!callers(output_of(node).id)) start_again(output_of(node).id);
    }
    for (const Step& step : make_steps(graph_, ops_, plan_.means, pass, strip_rows)) {
      follow(step);
      int64_t bytes = 0;
      for (int a = 0; a < graph_.activations(); a++) {
        if (!callers(a)) bytes += chunks_[static_cast<size_t>(a)].alive() * plan_.chunk_bytes;
      }
      peak_ = std::max(peak_, bytes);
    }
    for (const int a : pass.collects) {
      EXPECT_EQ(paper(a).made, graph_.extent({a}).h) << "statistics of half an activation";
      has_stats_.insert(a);
    }
  }

  void follow(const Step& step) {
    switch (step.kind) {
      case Step::Kind::kMaterialize:
        EXPECT_EQ(step.first, paper(step.activation).materialized);
        chunks_[static_cast<size_t>(step.activation)].materialize(step.last);
        paper(step.activation).materialized = step.last;
        break;
      case Step::Kind::kAdopt:
        std::swap(chunks_[static_cast<size_t>(step.activation)],
                  chunks_[static_cast<size_t>(step.other)]);
        adopted_ = step.other;
        paper(step.activation).materialized = paper(step.other).made;
        break;
      case Step::Kind::kRead:
        EXPECT_LE(step.last, paper(step.activation).written) << "read before it was written";
        break;
      case Step::Kind::kAwaitRead:
        paper(step.activation).made = step.last;
        break;
      case Step::Kind::kCompute:
        compute(step);
        break;
      case Step::Kind::kWrite:
        EXPECT_LE(step.last, paper(step.activation).made);
        break;
      case Step::Kind::kAwaitWrite:
        paper(step.activation).written = step.last;
        break;
      case Step::Kind::kRelease:
        chunks_[static_cast<size_t>(step.activation)].release(step.last);
        paper(step.activation).released = step.last;
        break;
    }
  }

  void compute(const Step& step) {
    const Node& node = graph_.nodes()[static_cast<size_t>(step.node)];
    const int y = output_of(node).id;
    EXPECT_EQ(step.first, paper(y).made) << name_of(node);
    if (!callers(y)) {
      EXPECT_LE(step.last, paper(y).materialized) << name_of(node);
    }
    if (const auto* conv = std::get_if<ConvNode>(&node)) {
      const auto [from, to] = ops_.input_rows(graph_, *conv, step.first, step.last);
      expect_alive(conv->x.id, from, to, node);
      if (conv->residual) expect_alive(conv->residual->id, step.first, step.last, node);
      if (conv->norm) {
        EXPECT_TRUE(has_stats_.contains(conv->x.id)) << name_of(node);
      }
    } else {
      const int x = inputs_of(node).front().id;
      EXPECT_TRUE(has_stats_.contains(x)) << name_of(node);
      if (x != adopted_) expect_alive(x, 0, graph_.extent({x}).h, node);
    }
    paper(y).made = step.last;
  }

  void expect_alive(int a, int64_t from, int64_t to, const Node& node) {
    EXPECT_LE(to, paper(a).made) << name_of(node) << " reads activation " << a;
    if (!callers(a)) {
      EXPECT_GE(from, paper(a).released) << name_of(node) << " reads " << a;
    }
  }

  const Graph& graph_;
  const Ops& ops_;
  const int64_t batch_;
  const ExecutionPlan& plan_;
  std::vector<RowChunks> chunks_;
  std::vector<Paper> papers_;
  std::set<int> has_stats_;
  int adopted_ = -1;
  int64_t peak_ = 0;
};

TEST(Schedule, has_every_row_when_it_is_read_in_no_more_memory_than_planned) {
  const uint64_t first = test_seed(1);
  const auto ops = make_reference_ops(1);
  for (uint64_t seed = first; seed < first + 40; seed++) {
    Random random(seed);
    const AutoencoderKLConfig config = random_config(random, 4, 64);
    SCOPED_TRACE("seed " + std::to_string(seed) + ": " + describe(config));
    const Model model = model_of_zeros(config);
    ModelTensors tensors(model);
    const int64_t h = random.integer(1, 40), w = random.integer(1, 20);
    const int64_t f = int64_t{1} << (config.block_out_channels.size() - 1);
    const Graph graph =
        lower(random.integer(0, 1) == 0 ? Decoder(tensors, config).graph(h, w)
                                        : Encoder(tensors, config).graph(h * f, w * f));
    const int64_t batch = random.integer(1, 2);
    PlanOptions options;
    options.may_spill = random.integer(0, 1) == 1;
    const ExecutionPlan free = plan_execution(graph, *ops, batch, options);
    const ExecutionPlan least = smallest_plan(graph, *ops, batch, options);
    Simulation(graph, *ops, batch, free).run();
    Simulation(graph, *ops, batch, least).run();
    options.memory = random.integer(least.peak_bytes, free.peak_bytes);
    const ExecutionPlan between = plan_execution(graph, *ops, batch, options);
    EXPECT_LE(between.peak_bytes, options.memory);
    Simulation(graph, *ops, batch, between).run();
  }
}

TEST(Schedule, never_makes_again_what_attention_reads_or_makes) {
  AutoencoderKLConfig config = small_config();
  const Model model = model_of_zeros(config);
  ModelTensors tensors(model);
  const Graph graph = lower(Decoder(tensors, config).graph(8, 8));
  for (const Node& node : graph.nodes()) {
    const bool attention = std::holds_alternative<AttentionNode>(node);
    for (const Activation x : inputs_of(node)) {
      if (attention) {
        EXPECT_FALSE(may_have(graph, x, Means::kRecompute));
      }
    }
    if (attention) {
      EXPECT_FALSE(may_have(graph, output_of(node), Means::kRecompute));
    }
  }
  EXPECT_FALSE(may_have(graph, graph.input(), Means::kSpill));
  EXPECT_FALSE(may_have(graph, graph.output(), Means::kRecompute));
}

}  // namespace
}  // namespace calotype::test
