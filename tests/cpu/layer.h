// One convolution or attention on random data, run alone on any backend, for comparison.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ops/graph.h"
#include "ops/ops.h"
#include "support/random.h"

namespace calotype::test {

struct ConvSpec {
  int64_t batch = 1, h = 8, w = 8, in = 16, out = 16, kernel = 3;
  Sampling sampling = Sampling::kSame;
  int groups = 0;               // of the norm on x; 0: no norm
  bool residual = false;        // of y's extent
  int out_groups = 1;           // of the statistics of y
  double mean = 0, stddev = 1;  // of x
  DType dtype = DType::kF32;    // of the weights
};
std::string describe(const ConvSpec& spec);

struct AttentionSpec {
  int64_t batch = 1, h = 8, w = 8, channels = 32;
  int groups = 1, out_groups = 1;
  double gain = 1;  // of the query projection: large ones make softmax choose one key
};
std::string describe(const AttentionSpec& spec);

struct LayerResult {
  std::vector<double> y;
  std::vector<GroupStats> stats;  // merged
  BandStats bands;
};

// How a layer is asked for.
struct LayerCall {
  int64_t first_picture = 0, pictures = 0;  // of the batch; 0: all
  int64_t calls = 1;                        // y split at bands
  bool in_place = false;                    // y is the residual's (attention: x's) memory
  Ops::Tick tick = [](double) {};
};

class Layer {
 public:
  Layer(const ConvSpec& spec, Random& random);
  Layer(const AttentionSpec& spec, Random& random);
  Layer(const Layer&) = delete;
  Layer& operator=(const Layer&) = delete;

  LayerResult run(Ops& ops, const LayerCall& call = {}) const;
  const Graph& graph() const { return graph_; }
  const Node& node() const { return node_; }

 private:
  TensorView weights(Shape shape, double stddev, DType dtype, Random& random);
  TensorView ones_and_noise(int64_t count, double base, Random& random);
  GroupNorm norm(int64_t channels, int groups, Random& random);
  Conv2d conv(int64_t in, int64_t out, int64_t kernel, DType dtype, Random& random);
  void measure_x(int groups);
  template <class T>
  LayerResult run_as(Ops& ops, const LayerCall& call) const;

  int64_t batch_;
  int out_groups_;
  std::vector<std::vector<std::byte>> storage_;
  Graph graph_;
  Node node_;
  Tensor x_, residual_;
  std::vector<GroupStats> x_stats_;
};

}  // namespace calotype::test
