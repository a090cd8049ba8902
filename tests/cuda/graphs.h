// Small graphs with random weights, and what the reference makes of them.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "cuda/loader.h"
#include "ops/graph.h"
#include "support/random.h"

namespace calotype::test {

// Owns the weights that graphs refer to.
class Weights {
 public:
  explicit Weights(uint64_t seed) : random_(seed) {}

  Random& random() { return random_; }
  TensorView tensor(Shape shape, double stddev, double mean = 0);
  Conv2d conv(int64_t in, int64_t out, int64_t kernel, double bias = 0);
  GroupNorm norm(int64_t channels, int groups);
  AttentionWeights attention(int64_t channels, double query_gain = 1);

 private:
  Random random_;
  std::deque<Tensor> tensors_;
};

// The part of a test's cases that this process runs: I of N by the variable CALOTYPE_TEST_PART=I/N,
// all without it. `scripts/sanitize-cuda.py` runs the parts side by side, each case once and the
// largest smaller: its tools take a thousand times as long, and show in the first run of a kernel
// what tests see in a second or a larger one.
class Part {
 public:
  Part();
  bool has_next() { return next_++ % count_ == index_; }
  bool is_split() const { return is_split_; }

 private:
  bool is_split_ = false;
  int index_ = 0, count_ = 1, next_ = 0;
};

// The graph's output in float64, by src/reference.
std::vector<double> run_reference(const Graph& graph, int64_t batch, const Tensor& input);
Tensor run_device(DeviceSession& session, const Graph& graph, int64_t batch, const Tensor& input,
                  int64_t memory = 0);

}  // namespace calotype::test
