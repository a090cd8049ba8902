// A graph run in the plainest way: operation by operation, every activation whole and in memory of
// its own. The judge of the planned execution, and the way to float64 results that nothing rounded.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ops/graph.h"
#include "ops/ops.h"

namespace calotype::test {

// `input` is [batch, h, w, c] of the graph's input; T is the type that ops.element() names.
template <class T>
std::vector<T> run_plainly(const Graph& graph, Ops& ops, int64_t batch, std::span<const T> input);

// The same on the float64 reference, on one thread.
std::vector<double> run_reference(const Graph& graph, int64_t batch, std::span<const double> input);

}  // namespace calotype::test
