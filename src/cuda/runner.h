// What run_graph does with one graph: see there.
#pragma once

#include "cuda/run_graph.h"
#include "cuda/strips.h"

namespace calotype::cuda {

class Runner {
 public:
  Runner(const GraphRun& run, const Machine& machine)
      : run_(run), graph_(*run.graph), plan_(*run.plan), machine_(machine) {}

  void run();

 private:
  const ActivationPlan& at(Activation a) const {
    return plan_.activations[static_cast<size_t>(a.id)];
  }
  template <class T = void>
  T* memory(const Place& place) const {
    if (place.offset < 0) return nullptr;
    return reinterpret_cast<T*>(static_cast<char*>(run_.arena) + place.offset);
  }
  int64_t element_bytes() const { return run_.element == Element::kF32 ? 4 : 2; }
  // Data is null for the graph's output, and for what is in host memory.
  Pictures pictures(Activation a) const;
  Partials partials(Activation a) const;
  Affine affine(Activation a, const NormWeights& norm);

  void import(const DeviceArray& from, const Pictures& to);
  // What all convolutions of a plan have.
  Conv described(const ConvPlan& plan, const ConvWeights& weights) const;
  void launch(const Conv& call, Path path);
  void launch_conv(Conv call, const ConvPlan& plan, Activation y);
  void conv(const ConvNode& node, size_t i);
  void attention(const AttentionNode& node, size_t i);
  void mix_on_hopper(const AttentionPlan& plan, const Pictures& normed, const Pictures& queries);
  void mix(const AttentionPlan& plan, const Pictures& normed, const Pictures& queries);

  // In run_strips.cc.
  bool is_streamed_input(Activation a) const { return a.id == graph_.input().id && at(a).on_host; }
  void conv_by_strips(const ConvNode& node, size_t i);
  void upload(const ConvNode& node, const StripPlan& strips, size_t k, Rows x, Rows y);
  void upload_rows(Activation a, Rows rows, const Place& strip);
  void download(Activation a, Rows rows, const Place& strip);
  void import_strip(Activation a, Rows rows, const StripPlan& strips, size_t k);
  Pictures rows_of(Activation a, Rows rows, const Place& strip) const;
  Store store_of(Activation a, Rows rows, const Place& strip) const;
  Partials partials_of(Activation a, const StripPlan& strips, int s) const;
  void copy(void* to, const void* from, int64_t bytes, cudaMemcpyKind kind);

  const GraphRun& run_;
  const Graph& graph_;
  const GraphPlan& plan_;
  const Machine& machine_;
};

}  // namespace calotype::cuda
