// Strips: what of a picture is kept in device memory, what in the host's, and what is computed
// again by everybody who reads it.
#include <algorithm>
#include <limits>

#include "cuda/planner.h"

namespace calotype::cuda {
namespace {

// Strips that go over the bus, of one operation, at least: the first has nothing to be computed
// beside, and the last nothing to be uploaded beside.
constexpr int64_t kStripsWanted = 16;
// Pinning takes half a second a gigabyte, which ten pictures share, and memory from other programs.
constexpr double kPinningRate = 20e9;
constexpr double kLaunchSeconds = 5e-6;

}  // namespace

// For the memory of one strip: by activation, the most rows of it that a strip takes, and when it
// is computed and last read; the memory that all take at once.
struct Planner::StripSizes {
  std::vector<int> rows;
  std::vector<size_t> first, last;
  int64_t bytes = 0;
  bool by_bus = false;
};

std::vector<size_t> Planner::chain_of(size_t i) const {
  std::vector<bool> wanted(i + 1, false);
  wanted[i] = true;
  std::vector<size_t> chain;
  for (size_t k = i + 1; k-- > 0;) {
    if (!wanted[k]) continue;
    chain.push_back(k);
    for (const Activation a : inputs_of(graph_.nodes()[k])) {
      if (home(a) == Home::kNowhere) wanted[producer_[index(a)]] = true;
    }
  }
  std::ranges::reverse(chain);
  return chain;
}

std::vector<Activation> Planner::sources_of(const std::vector<size_t>& chain) const {
  std::vector<Activation> sources;
  for (const size_t k : chain) {
    for (const Activation a : inputs_of(graph_.nodes()[k])) {
      const bool is_new = std::ranges::none_of(sources, [&](Activation b) { return a.id == b.id; });
      if (home(a) != Home::kNowhere && is_new) sources.push_back(a);
    }
  }
  return sources;
}

// Bytes of so many rows: of an activation, and of the graph's ends as the caller has them.
int64_t Planner::strip_bytes(Activation a, int64_t rows) const {
  ActivationPlan unused;
  const Extent e = graph_.extent(a);
  return a.id == graph_.output().id ? end_bytes(a, rows) : bytes_of({rows, e.w, e.c}, unused);
}
int64_t Planner::end_bytes(Activation a, int64_t rows) const {
  return rows * graph_.extent(a).w * graph_.extent(a).c * 4;
}

// By activation, the most rows that a strip takes.
const std::vector<int>& Planner::most_rows(const std::vector<size_t>& chain, int64_t rows) const {
  std::vector<int>& most = (*homes_.known_rows)[{chain, rows}];
  if (!most.empty()) return most;
  const auto count = static_cast<size_t>(graph_.activations());
  most.assign(count, 0);
  const Activation y = conv_node(chain.back()).y;
  const int64_t height = graph_.extent(y).h, strips = (height + rows - 1) / rows;
  // Of the first, the last and eight in the middle: what the strips in between take depends on
  // where they begin modulo 2, 4 or 8.
  for (int64_t s = 0; s < strips; s++) {
    const bool is_sample = s < 2 || s >= strips - 2 || (s >= strips / 2 && s < strips / 2 + 8);
    if (!is_sample) continue;
    const Rows last = {static_cast<int>(s * rows),
                       static_cast<int>(std::min(height, (s + 1) * rows))};
    const std::vector<Rows> needed = rows_needed(graph_, plan_.nodes, chain, last);
    for (size_t a = 0; a < count; a++) {
      most[a] = std::max(most[a], needed[a].count());
    }
  }
  return most;
}

Planner::StripSizes Planner::sizes_of(const std::vector<size_t>& chain, int64_t rows) const {
  const auto count = static_cast<size_t>(graph_.activations());
  StripSizes sizes = {most_rows(chain, rows), std::vector<size_t>(count, 0),
                      std::vector<size_t>(count, 0)};
  for (size_t step = 0; step < chain.size(); step++) {
    sizes.first[index(conv_node(chain[step]).y)] = step;
    for (const Activation a : inputs_of(graph_.nodes()[chain[step]])) sizes.last[index(a)] = step;
  }
  std::vector<int64_t> at_once(chain.size(), 0);
  for (size_t a = 0; a < count; a++) {
    const Activation activation = {static_cast<int>(a)};
    if (sizes.rows[a] == 0 || home(activation) == Home::kDevice) continue;
    const int64_t bytes = strip_bytes(activation, sizes.rows[a]);
    if (is_streamed_input(activation)) {
      sizes.bytes += bytes + 2 * end_bytes(activation, sizes.rows[a]);
    } else if (home(activation) == Home::kHost) {
      sizes.bytes += 2 * bytes;
    } else {
      const size_t last = std::max(sizes.first[a], sizes.last[a]);
      for (size_t step = sizes.first[a]; step <= last; step++) at_once[step] += bytes;
    }
    sizes.by_bus = sizes.by_bus || home(activation) == Home::kHost;
  }
  sizes.bytes += *std::ranges::max_element(at_once);
  return sizes;
}

// Whole rows of tiles, as many as the memory for strips takes, but so few that there are strips to
// overlap; less than a row of tiles only where memory is that scarce.
int64_t Planner::strip_rows(const std::vector<size_t>& chain) const {
  const bool halved = plan_.nodes[chain.back()].conv.mode == Mode::kUp;
  const int64_t height = graph_.extent(conv_node(chain.back()).y).h, least = halved ? 2 : 1;
  const int64_t tile =
      least * kHopperTile;  // of mma_conv's tiles the tall ones, two of simt_conv's
  const StripSizes one = sizes_of(chain, tile);
  int64_t rows = tile;
  if (one.bytes <= homes_.strip_bytes) {
    const int64_t more = std::max<int64_t>(1, sizes_of(chain, 2 * tile).bytes - one.bytes);
    rows = tile * (1 + (homes_.strip_bytes - one.bytes) / more);
    if (one.by_bus) {
      rows = std::min(rows, round_up((height + kStripsWanted - 1) / kStripsWanted, tile));
    }
    rows = std::min(rows, round_up(height, tile));
  } else {
    while (rows > least && sizes_of(chain, rows).bytes > homes_.strip_bytes) rows /= 2;
  }
  return std::min(rows, height);
}

void Planner::plan_strips(size_t i) {
  StripPlan plan;
  plan.nodes = chain_of(i);
  const Activation y = conv_node(i).y;
  const int64_t height = graph_.extent(y).h, rows = strip_rows(plan.nodes);
  plan.rows = static_cast<int>(rows);
  plan.count = static_cast<int>((height + rows - 1) / rows);
  const StripSizes sizes = sizes_of(plan.nodes, rows);
  for (int id = 0; id < graph_.activations(); id++) {
    const Activation a = {id};
    const size_t k = index(a);
    if (sizes.rows[k] == 0 || home(a) == Home::kDevice) continue;
    const int64_t bytes = strip_bytes(a, sizes.rows[k]);
    StripBuffer buffer = {a, {}};
    if (home(a) == Home::kNowhere) {
      const auto first = static_cast<int64_t>(sizes.first[k]);
      const auto last = static_cast<int64_t>(std::max(sizes.first[k], sizes.last[k]));
      buffer.places[0] = buffer.places[1] = take_between(bytes, first, last);
    } else if (is_streamed_input(a)) {
      const int64_t raw = end_bytes(a, sizes.rows[k]);
      plan.raw = {take_for_now(raw), take_for_now(raw)};
      buffer.places[0] = buffer.places[1] = take_for_now(bytes);
      plan.up_bytes += plan.count * raw;
    } else {
      buffer.places = {take_for_now(bytes), take_for_now(bytes)};
      if (a.id == y.id) {
        plan.down_bytes += strip_bytes(a, height);
      } else {
        plan.up_bytes += plan.count * bytes;
      }
    }
    plan.buffers.push_back(buffer);
  }
  for (const size_t k : plan.nodes) {
    plan.affines.push_back(conv_node(k).norm ? take_for_now(plan_.affine_stride * 8) : Place());
  }
  count_work(plan, sizes);
  plan_.nodes[i].strips = std::move(plan);
}

void Planner::count_work(StripPlan& plan, const StripSizes& sizes) const {
  double computing = 0;
  for (const size_t k : plan.nodes) {
    const ConvNode& node = conv_node(k);
    const Mode mode = plan_.nodes[k].conv.mode;
    const int64_t rows = sizes.rows[index(node.y)], height = graph_.extent(node.y).h;
    const double times = static_cast<double>(plan.count * rows) / static_cast<double>(height);
    plan.flop += std::max(1.0, times) * flop_of_conv(graph_, node, mode);
    computing += plan.count * conv_seconds(graph_, node, plan_.nodes[k].conv, rows, target_);
  }
  const int64_t bytes = std::max(plan.up_bytes, plan.down_bytes);
  plan.seconds = std::max(computing, static_cast<double>(bytes) / target_.bus_rate);
}

// Tiles go to multiprocessors in rounds; where there is little arithmetic, memory is the limit.
double conv_seconds(const Graph& graph, const ConvNode& node, const ConvPlan& plan, int64_t rows,
                    const Target& target) {
  const Extent x = graph.extent(node.x), y = graph.extent(node.y);
  const bool exact = plan.path == Path::kSimt;
  const int tile_h = exact ? kSimtTileH : kHopperTile, tile_w = kPortableTileW;
  const int64_t columns = plan.weight_rows / plan.row_tile;
  const int64_t tiles =
      columns * tiles_of(plan.mode, static_cast<int>(rows), static_cast<int>(y.w), tile_h, tile_w);
  const int64_t at_once = target.processors * (exact ? 2 : 1);
  const double tile_flop = flop_of_conv(graph, node, plan.mode) * tile_h * tile_w /
                           static_cast<double>(y.h * y.w * columns);
  const double computing =
      static_cast<double>(round_up(tiles, at_once)) * tile_flop / target.rate();
  int64_t values = rows * y.w * y.c + rows * x.h / y.h * x.w * x.c;
  if (node.residual) values += rows * y.w * graph.extent(*node.residual).c;
  const double moving = static_cast<double>(values * target.element_bytes()) / target.memory_rate;
  return std::max(computing, moving) + kLaunchSeconds;
}

std::vector<Rows> rows_needed(const Graph& graph, const std::vector<NodePlan>& plans,
                              const std::vector<size_t>& nodes, Rows last) {
  std::vector<Rows> needed(static_cast<size_t>(graph.activations()));
  const auto at = [&](Activation a) -> Rows& { return needed[static_cast<size_t>(a.id)]; };
  const auto add = [&](Activation a, Rows rows) {
    Rows& so_far = at(a);
    if (so_far.count() == 0) so_far = rows;
    so_far = {std::min(so_far.first, rows.first), std::max(so_far.last, rows.last)};
  };
  at(output_of(graph.nodes()[nodes.back()])) = last;
  for (size_t k = nodes.size(); k-- > 0;) {
    const ConvNode& node = std::get<ConvNode>(graph.nodes()[nodes[k]]);
    const Mode mode = plans[nodes[k]].conv.mode;
    Rows& y = at(node.y);
    if (mode == Mode::kUp) y = {y.first / 2 * 2, (y.last + 1) / 2 * 2};
    add(node.x, input_rows(mode, y, static_cast<int>(graph.extent(node.x).h)));
    if (node.residual) add(*node.residual, y);
  }
  return needed;
}

namespace {

class Search {
 public:
  Search(const Graph& graph, const Target& target, int64_t room)
      : graph_(graph), target_(target), room_(room) {}

  // All that may be is in host memory: not what attention reads and writes, an input only where it
  // is the large end, a picture.
  void start(int64_t strip_bytes) {
    homes_.strip_bytes = strip_bytes;
    homes_.known_rows = std::make_shared<KnownRows>();
    homes_.of.assign(static_cast<size_t>(graph_.activations()), Home::kHost);
    const auto pixels = [&](Activation a) { return graph_.extent(a).h * graph_.extent(a).w; };
    std::vector<Activation> kept;
    if (pixels(graph_.input()) <= pixels(graph_.output())) kept.push_back(graph_.input());
    for (const Node& node : graph_.nodes()) {
      if (const auto* attention = std::get_if<AttentionNode>(&node)) {
        kept.insert(kept.end(), {attention->x, attention->y});
      }
    }
    for (const Activation a : kept) at(a.id) = Home::kDevice;
    free_.clear();
    for (int a = 0; a < graph_.activations(); a++) {
      const bool is_end = a == graph_.input().id || a == graph_.output().id;
      if (at(a) == Home::kHost && !is_end) free_.push_back(a);
    }
    // The smallest take the least room.
    const auto size = [&](int a) {
      const Extent e = graph_.extent({a});
      return e.h * e.w * e.c;
    };
    std::ranges::stable_sort(free_, {}, size);
  }
  int64_t arena_bytes() const { return plan(0).arena_bytes; }

  // Moves one activation at a time to where the picture takes the least time, until none is left to
  // move. Returns that time.
  double improve(Home first) {
    for (const int a : free_) at(a) = first;
    double best = cost();
    for (bool moved = true; moved;) {
      moved = false;
      for (const int a : free_) {
        for (const Home home : {Home::kDevice, Home::kNowhere, Home::kHost}) {
          const Home before = at(a);
          if (home == before) continue;
          at(a) = home;
          const double now = cost();
          if (now < best) {
            best = now;
            moved = true;
          } else {
            at(a) = before;
          }
        }
      }
    }
    return best;
  }

  GraphPlan finish() const {
    for (int sixteenths = 16; sixteenths > 0; sixteenths--) {
      GraphPlan wide = plan(room_ / 16 * sixteenths);
      if (wide.arena_bytes <= room_) return wide;
    }
    return plan(0);
  }

 private:
  Home& at(int a) { return homes_.of[static_cast<size_t>(a)]; }
  GraphPlan plan(int64_t attention_bytes) const {
    return Planner(graph_, 1, target_, attention_bytes, homes_).plan();
  }

  double cost() const {
    const GraphPlan plan = this->plan(0);
    if (plan.arena_bytes > room_) return std::numeric_limits<double>::infinity();
    double seconds = static_cast<double>(plan.host_bytes) / kPinningRate;
    for (size_t i = 0; i < plan.nodes.size(); i++) {
      const NodePlan& node = plan.nodes[i];
      seconds += node.strips ? node.strips->seconds
                             : flop_executed(graph_, graph_.nodes()[i], node) / target_.rate();
    }
    return seconds;
  }

  const Graph& graph_;
  const Target target_;
  const int64_t room_;
  Homes homes_;
  std::vector<int> free_;
};

std::vector<int64_t> strip_sizes() {
  std::vector<int64_t> sizes = {0};
  for (int64_t size = 64 << 10; size <= int64_t{1} << 30; size *= 2) sizes.push_back(size);
  return sizes;
}

}  // namespace

std::optional<GraphPlan> plan_strips(const Graph& graph, const Target& target, int64_t room) {
  // Larger strips are computed with fewer rows above and below, smaller ones leave more room to
  // activations.
  std::optional<Search> best;
  double least = std::numeric_limits<double>::infinity();
  const std::vector<int64_t> sizes = strip_sizes();
  int tried = 0;
  for (auto size = sizes.rbegin(); size != sizes.rend() && tried < 3; size++) {
    if (*size > room / 2) continue;
    Search search(graph, target, room);
    search.start(*size);
    if (search.arena_bytes() > room) continue;
    tried++;
    for (const Home first : {Home::kHost, Home::kNowhere}) {
      const double seconds = search.improve(first);
      if (seconds >= least) continue;
      least = seconds;
      best.emplace(search);
    }
  }
  for (auto size = sizes.begin(); size != sizes.end() && !best; size++) {
    Search search(graph, target, room);
    search.start(*size);
    if (search.arena_bytes() <= room) best.emplace(search);
  }
  if (!best) return std::nullopt;
  return best->finish();
}

int64_t least_strip_room(const Graph& graph, const Target& target) {
  int64_t least = std::numeric_limits<int64_t>::max();
  for (const int64_t size : strip_sizes()) {
    Search search(graph, target, 0);
    search.start(size);
    least = std::min(least, search.arena_bytes());
  }
  return least;
}

}  // namespace calotype::cuda
