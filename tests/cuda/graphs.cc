#include "cuda/graphs.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <stdexcept>

#include "reference/reference_ops.h"

namespace calotype::test {

TensorView Weights::tensor(Shape shape, double stddev, double mean) {
  tensors_.push_back(random_.normal_tensor(std::move(shape), stddev, mean));
  return tensors_.back().view();
}

Conv2d Weights::conv(int64_t in, int64_t out, int64_t kernel, double bias) {
  const double stddev = 1 / std::sqrt(static_cast<double>(in * kernel * kernel));
  return {tensor({out, in, kernel, kernel}, stddev), tensor({out}, 0.2, bias), in, out, kernel};
}

GroupNorm Weights::norm(int64_t channels, int groups) {
  return {tensor({channels}, 0.2, 1), tensor({channels}, 0.2), groups, 1e-6};
}

AttentionWeights Weights::attention(int64_t channels, double query_gain) {
  const double stddev = 1 / std::sqrt(static_cast<double>(channels));
  AttentionWeights w;
  for (TensorView* view : {&w.query, &w.key, &w.value, &w.out}) {
    *view = tensor({channels, channels}, view == &w.query ? query_gain * stddev : stddev);
  }
  for (TensorView* view : {&w.query_bias, &w.key_bias, &w.value_bias, &w.out_bias}) {
    *view = tensor({channels}, 0.2);
  }
  return w;
}

Part::Part() {
  const char* text = std::getenv("CALOTYPE_TEST_PART");
  if (text == nullptr) return;
  is_split_ = true;
  if (std::sscanf(text, "%d/%d", &index_, &count_) != 2 || index_ < 0 || index_ >= count_) {
    throw std::invalid_argument("CALOTYPE_TEST_PART must be I/N with 0 <= I < N");
  }
}

std::vector<double> run_reference(const Graph& graph, int64_t batch, const Tensor& input) {
  const std::unique_ptr<Ops> ops = make_reference_ops(0);
  const auto count = static_cast<size_t>(graph.activations());
  std::vector<std::vector<double>> values(count);
  std::vector<std::vector<GroupStats>> stats(count);
  values[0].assign(input.values().begin(), input.values().end());
  const auto rows = [&](Activation a) {
    const Extent e = graph.extent(a);
    std::vector<double>& memory = values[static_cast<size_t>(a.id)];
    memory.resize(static_cast<size_t>(batch * e.h * e.w * e.c));
    return Rows{memory.data(), 0, e.h, e.h * e.w * e.c, e};
  };
  for (const Node& node : graph.nodes()) {
    const Activation y = output_of(node);
    BandStats bands;
    bands.band_rows = 1;
    bands.bands = graph.extent(y).h;
    bands.batch = batch;
    bands.groups = graph.stats_groups(y);
    bands.values.resize(static_cast<size_t>(bands.bands * batch * bands.groups));
    BandStats* y_stats = bands.groups > 0 ? &bands : nullptr;
    if (const auto* conv = std::get_if<ConvNode>(&node)) {
      ConvCall call;
      call.node = conv;
      call.batch = batch;
      call.x = rows(conv->x);
      call.x_stats = stats[static_cast<size_t>(conv->x.id)];
      if (conv->residual) call.residual = rows(*conv->residual);
      call.y = rows(y);
      call.y_stats = y_stats;
      ops->conv(call, [](double) {});
    } else {
      const auto& attention = std::get<AttentionNode>(node);
      AttentionCall call;
      call.node = &attention;
      call.batch = batch;
      call.x = rows(attention.x);
      call.x_stats = stats[static_cast<size_t>(attention.x.id)];
      call.y = rows(y);
      call.y_stats = y_stats;
      ops->attention(call, [](double) {});
    }
    if (y_stats != nullptr) stats[static_cast<size_t>(y.id)] = bands.merged();
  }
  return values[static_cast<size_t>(graph.output().id)];
}

Tensor run_device(DeviceSession& session, const Graph& graph, int64_t batch, const Tensor& input,
                  int64_t memory) {
  const Extent out = graph.extent(graph.output());
  Tensor output({batch, out.h, out.w, out.c});
  for (float& v : output.values()) v = std::nanf("");  // what is not written shows
  DeviceCall call;
  call.graph = &graph;
  call.batch = batch;
  call.input.data = const_cast<float*>(input.data());
  call.output.data = output.data();
  call.memory = memory;
  session.run(call);
  return output;
}

}  // namespace calotype::test
