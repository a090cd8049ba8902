#include "ops/graph.h"

#include <map>

#include "core/cat.h"
#include "core/checked.h"

namespace calotype {
namespace {

template <class... F>
struct Overloaded : F... {
  using F::operator()...;
};
template <class... F>
Overloaded(F...) -> Overloaded<F...>;

}  // namespace

Graph::Graph(Extent input) { output_ = add(input); }

Activation Graph::add(Extent extent) {
  checked_mul(checked_mul(checked_mul(extent.h, extent.w), extent.c), 8);
  extents_.push_back(extent);
  stats_groups_.push_back(0);
  return {static_cast<int>(extents_.size()) - 1};
}

void Graph::wants_stats(Activation a, int groups) {
  int& wanted = stats_groups_.at(static_cast<size_t>(a.id));
  if (wanted != 0 && wanted != groups) {
    fail(ErrorCode::kInternal, "an activation is normed in ", wanted, " and in ", groups,
         " groups");
  }
  if (a.id == 0) fail(ErrorCode::kInternal, "the input of a graph cannot be normed");
  wanted = groups;
}

Activation Graph::conv(std::string name, Activation x, const Conv2d& conv,
                       const ConvOptions& options) {
  Extent extent = this->extent(x);
  if (extent.c != conv.in) {
    fail(ErrorCode::kInternal, name, " takes ", conv.in, " channels, not ", extent.c);
  }
  if (options.sampling == Sampling::kUpsample) {
    extent.h = checked_mul(extent.h, 2);
    extent.w = checked_mul(extent.w, 2);
  } else if (options.sampling == Sampling::kDownsample) {
    extent.h = (extent.h + 1 - 3) / 2 + 1;  // one row of zeros below
    extent.w = (extent.w + 1 - 3) / 2 + 1;
  }
  extent.c = conv.out;
  ConvNode node;
  node.name = std::move(name);
  node.x = x;
  node.conv = conv;
  node.sampling = options.sampling;
  if (options.norm != nullptr) {
    node.norm = *options.norm;
    wants_stats(x, options.norm->groups);
  }
  if (options.residual != nullptr) node.residual = *options.residual;
  if (options.shortcut != nullptr) node.shortcut = *options.shortcut;
  node.y = add(extent);
  const Activation y = node.y;
  nodes_.emplace_back(std::move(node));
  return y;
}

Activation Graph::attention(std::string name, Activation x, const GroupNorm& norm,
                            const AttentionWeights& weights) {
  wants_stats(x, norm.groups);
  const Activation y = add(extent(x));
  nodes_.emplace_back(AttentionNode{std::move(name), x, y, norm, weights});
  return y;
}

Graph lower(const Graph& graph) {
  Graph lowered(graph.extent(graph.input()));
  std::vector<Activation> now(static_cast<size_t>(graph.activations()));  // in `lowered`, by old id
  now[0] = lowered.input();
  const auto at = [&](Activation a) -> Activation& { return now[static_cast<size_t>(a.id)]; };
  std::map<int, Activation> shortcuts;  // by the old id of the convolution's result
  for (size_t i = 0; i < graph.nodes().size(); i++) {
    // Shortcuts of later nodes whose source is read here for the first time.
    for (const Activation a : inputs_of(graph.nodes()[i])) {
      for (size_t j = i; j < graph.nodes().size(); j++) {
        const auto* later = std::get_if<ConvNode>(&graph.nodes()[j]);
        if (later == nullptr || !later->shortcut || later->residual->id != a.id) continue;
        if (shortcuts.contains(later->y.id)) continue;
        const std::string block = later->name.substr(0, later->name.rfind('.'));
        shortcuts[later->y.id] = lowered.conv(block + ".conv_shortcut", at(a), *later->shortcut);
      }
    }
    if (const auto* conv = std::get_if<ConvNode>(&graph.nodes()[i])) {
      Activation residual;
      if (conv->residual)
        residual = conv->shortcut ? shortcuts.at(conv->y.id) : at(*conv->residual);
      at(conv->y) = lowered.conv(conv->name, at(conv->x), conv->conv,
                                 {.sampling = conv->sampling,
                                  .norm = conv->norm ? &*conv->norm : nullptr,
                                  .residual = conv->residual ? &residual : nullptr});
    } else {
      const auto& attention = std::get<AttentionNode>(graph.nodes()[i]);
      at(attention.y) =
          lowered.attention(attention.name, at(attention.x), attention.norm, attention.weights);
    }
  }
  lowered.set_output(at(graph.output()));
  return lowered;
}

const std::string& name_of(const Node& node) {
  return std::visit([](const auto& n) -> const std::string& { return n.name; }, node);
}

Activation output_of(const Node& node) {
  return std::visit([](const auto& n) { return n.y; }, node);
}

std::vector<Activation> inputs_of(const Node& node) {
  return std::visit(Overloaded{[](const ConvNode& n) {
                                 std::vector<Activation> inputs = {n.x};
                                 if (n.residual) inputs.push_back(*n.residual);
                                 return inputs;
                               },
                               [](const AttentionNode& n) { return std::vector<Activation>{n.x}; }},
                    node);
}

double flop_of(const Graph& graph, const Node& node) {
  const Extent y = graph.extent(output_of(node));
  const double pixels = static_cast<double>(y.h) * static_cast<double>(y.w);
  return std::visit(Overloaded{[&](const ConvNode& n) {
                                 double inputs =
                                     static_cast<double>(n.conv.in * n.conv.kernel * n.conv.kernel);
                                 if (n.shortcut) inputs += static_cast<double>(n.shortcut->in);
                                 return 2 * pixels * static_cast<double>(n.conv.out) * inputs;
                               },
                               [&](const AttentionNode&) {
                                 const double c = static_cast<double>(y.c);
                                 return 2 * pixels * c *
                                        (4 * c + 2 * pixels);  // four projections, q k^T, softmax v
                               }},
                    node);
}

}  // namespace calotype
