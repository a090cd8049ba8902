// Who is told how a pass gets on.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "core/cat.h"
#include "cuda/memory.h"
#include "cuda/plan.h"
#include "cuda/run_graph.h"
#include "ops/device_backend.h"

namespace calotype::cuda {

// Follows a pass for progress and for layer reports. All of the pass is launched first: whoever is
// told of it may use the session, and wait for others that do.
class Observer {
 public:
  Observer(const DeviceCall& call, int64_t first, int64_t count, int64_t element_bytes)
      : call_(call), graph_(*call.graph), count_(count), element_bytes_(element_bytes) {
    double pass_flop = 0;
    for (const Node& node : graph_.nodes()) pass_flop += flop_of(graph_, node);
    done_ = pass_flop * static_cast<double>(first);
    total_ = pass_flop * static_cast<double>(call.batch);
  }

  static bool is_needed(const DeviceCall& call) {
    return call.layers != nullptr || (call.progress != nullptr && *call.progress);
  }

  // Before the first operation is launched.
  void start(std::shared_ptr<const GraphPlan> plan, cudaStream_t stream) {
    plan_ = std::move(plan);
    stream_ = stream;
    marks_.clear();
    mark();
  }
  // After each operation was launched.
  void mark() {
    marks_.push_back(std::make_unique<Event>(cudaEventDefault));
    marks_.back()->record(stream_);
  }
  // As the GPU gets on. Throws Error(kCancelled).
  void report() {
    for (size_t i = 0; i < graph_.nodes().size(); i++) report(i);
  }

 private:
  void report(size_t i) {
    marks_[i + 1]->wait();
    const Node& node = graph_.nodes()[i];
    if (call_.layers != nullptr) call_.layers->push_back(layer(node, i));
    done_ += flop_of(graph_, node) * static_cast<double>(count_);
    if (call_.progress != nullptr && *call_.progress &&
        !(*call_.progress)({std::min(1.0, done_ / total_), name_of(node)})) {
      fail(ErrorCode::kCancelled, "cancelled at ", name_of(node));
    }
  }
  LayerReport layer(const Node& node, size_t i) const {
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, *marks_[i], *marks_[i + 1]), "cudaEventElapsedTime");
    const auto elements = [&](Activation a) {
      const Extent e = graph_.extent(a);
      return static_cast<double>(e.h * e.w * e.c);
    };
    double values = elements(output_of(node));
    for (const Activation a : inputs_of(node)) values += elements(a);
    const double count = static_cast<double>(count_);
    LayerReport layer;
    layer.name = name_of(node);
    layer.algorithm = algorithm_of(plan_->nodes[i]);
    layer.seconds = static_cast<double>(milliseconds) * 1e-3;
    layer.flop = count * flop_of(graph_, node);
    layer.flop_executed = count * flop_executed(graph_, node, plan_->nodes[i]);
    layer.bytes = count * values * static_cast<double>(element_bytes_);
    return layer;
  }

  const DeviceCall& call_;
  const Graph& graph_;
  const int64_t count_, element_bytes_;
  std::shared_ptr<const GraphPlan> plan_;
  cudaStream_t stream_ = nullptr;
  double done_ = 0, total_ = 0;
  std::vector<std::unique_ptr<Event>> marks_;
};

}  // namespace calotype::cuda
