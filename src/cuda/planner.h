// Plans one graph when it is known where every activation lies: see plan.h.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cuda/arena.h"
#include "cuda/plan.h"
#include "cuda/strips.h"

namespace calotype::cuda {

// The most rows of each activation that a strip takes, by the operations of a strip and its rows:
// found once for many plans of a graph.
using KnownRows = std::map<std::pair<std::vector<size_t>, int64_t>, std::vector<int>>;

// Where activations lie, and how much device memory the strips of one operation should take.
struct Homes {
  std::vector<Home> of;  // by activation; empty: all in device memory
  int64_t strip_bytes = 0;
  std::shared_ptr<KnownRows> known_rows;
};

class Planner {
 public:
  Planner(const Graph& graph, int64_t batch, const Target& target, int64_t attention_bytes,
          const Homes& homes = {})
      : graph_(graph),
        batch_(batch),
        target_(target),
        attention_bytes_(attention_bytes),
        homes_(homes) {}

  GraphPlan plan();

 private:
  // Times of the arena: those of operation i are [i kSteps, (i + 1) kSteps).
  static constexpr int64_t kSteps = 256;

  static size_t index(Activation a) { return static_cast<size_t>(a.id); }
  ActivationPlan& at(Activation a) { return plan_.activations[index(a)]; }
  Home home(Activation a) const { return homes_.of.empty() ? Home::kDevice : homes_.of[index(a)]; }
  bool is_streamed_input(Activation a) const {
    return a.id == graph_.input().id && home(a) == Home::kHost;
  }
  // Where the activation itself lies.
  Arena& arena_of(Activation a) { return home(a) == Home::kHost ? host_arena_ : arena_; }

  // Until the arena is dealt, offsets are numbers of its items.
  int64_t begin() const { return now_ * kSteps; }
  int64_t end() const { return now_ * kSteps + kSteps - 1; }
  Place take(int64_t bytes) { return {arena_.take(bytes, begin()), bytes}; }
  void give(const Place& place) { arena_.give(place.offset, end()); }
  // From one step of this operation to another.
  Place take_between(int64_t bytes, int64_t first, int64_t last);
  Place take_for_now(int64_t bytes) { return take_between(bytes, 0, kSteps - 1); }
  void resolve_places();

  int64_t weights(const ConvPlan& conv) const;
  void find_affine();
  void find_readers();
  void place(Activation a, int reused);
  int64_t bytes_of(Extent e, ActivationPlan& plan) const;
  int64_t stride_of(int64_t channels, bool planar) const;
  // Channels that a convolution reads.
  struct Depth {
    int64_t in = 0, shortcut = 0;
  };
  int slots_of(const ActivationPlan& plan, const ConvPlan& conv, const Depth& depth, int64_t rows,
               int64_t columns) const;
  void plan_moments(Activation a, const ConvPlan& conv, const Depth& depth, StripPlan* strips);
  void give_inputs(size_t i, int kept);
  int overwritable(const ConvNode& node, const ConvPlan& conv, size_t i) const;
  void plan_node(const ConvNode& node, size_t i);
  void plan_node(const AttentionNode& node, size_t i);
  void plan_workspace(Extent e, AttentionPlan& a);

  // In plan_strips.cc.
  // The operations that must be computed for i, itself the last.
  std::vector<size_t> chain_of(size_t i) const;
  // What they read that lies somewhere.
  std::vector<Activation> sources_of(const std::vector<size_t>& chain) const;
  const ConvNode& conv_node(size_t i) const { return std::get<ConvNode>(graph_.nodes()[i]); }
  struct StripSizes;
  const std::vector<int>& most_rows(const std::vector<size_t>& chain, int64_t rows) const;
  StripSizes sizes_of(const std::vector<size_t>& chain, int64_t rows) const;
  int64_t strip_bytes(Activation a, int64_t rows) const;
  int64_t end_bytes(Activation a, int64_t rows) const;
  int64_t strip_rows(const std::vector<size_t>& chain) const;
  void plan_strips(size_t i);
  void count_work(StripPlan& plan, const StripSizes& sizes) const;

  const Graph& graph_;
  const int64_t batch_;
  const Target target_;
  const int64_t attention_bytes_;
  const Homes homes_;
  GraphPlan plan_;
  Arena arena_, host_arena_;
  // By activation: the last operation that reads it, and its statistics.
  std::vector<size_t> last_reader_, last_norm_;
  std::vector<size_t> producer_;
  int64_t now_ = -1;  // the operation that is planned; -1: before the first
};

// The rows of every activation that rows `last` of the last operation's output take: none of those
// that none of the operations reads or makes. What is upsampled is computed in pairs of rows.
std::vector<Rows> rows_needed(const Graph& graph, const std::vector<NodePlan>& plans,
                              const std::vector<size_t>& nodes, Rows last);

// Expected of so many rows of a convolution's output.
double conv_seconds(const Graph& graph, const ConvNode& node, const ConvPlan& plan, int64_t rows,
                    const Target& target);

// As a 64-bit number it may be anything; kernels count in 32.
int to_int(int64_t value, const std::string& name);
int64_t round_up(int64_t value, int64_t multiple);
Path path_of(const Target& target);

}  // namespace calotype::cuda
