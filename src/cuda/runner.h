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
  static int64_t planes_of(const Pictures& p) { return p.planar ? slabs_of(p.c) : 1; }
  // Data is null where it does not lie in device memory.
  Pictures pictures(Activation a) const;
  Partials partials(Activation a) const;
  Affine affine(Activation a, const NormWeights& norm, const Place& place);

  void import(const DeviceArray& from, const Pictures& to);
  // What all convolutions of a plan have.
  Conv described(const ConvPlan& plan, const ConvWeights& weights) const;
  void launch(const Conv& call, Path path);
  void launch_conv(Conv call, const ConvPlan& plan, Activation y);
  void conv(const ConvNode& node, size_t i);
  void attention(const AttentionNode& node, size_t i);
  void mix_bounded(const AttentionPlan& plan, const Pictures& normed, const Pictures& queries);
  void mix(const AttentionPlan& plan, const Pictures& normed, const Pictures& queries);

  // In run_strips.cc.
  struct Strip;
  void conv_by_strips(size_t i);
  Strip strip_of(const StripPlan& plan, int s) const;
  void conv_of_strip(size_t i, const Strip& strip, const Affine& affine, const StripPlan* last);
  void upload(const StripPlan& plan, const Strip& strip);
  void download(Activation a, const Strip& strip);
  void import_strip(const StripPlan& plan, const Strip& strip);
  Pictures rows_of(Activation a, Rows rows, const Strip& strip) const;
  Store store_of(Activation a, const Strip& strip) const;
  Partials partials_of(Activation a, const StripPlan& plan, int s) const;
  void copy(void* to, const void* from, int64_t bytes, cudaMemcpyKind kind);

  const GraphRun& run_;
  const Graph& graph_;
  const GraphPlan& plan_;
  const Machine& machine_;
};

}  // namespace calotype::cuda
