#include "cuda/run_graph.h"

#include "core/cat.h"
#include "cuda/runner.h"

namespace calotype::cuda {

void Runner::run() {
  if (at(graph_.input()).home == Home::kDevice) import(run_.input, pictures(graph_.input()));
  for (size_t i = 0; i < graph_.nodes().size(); i++) {
    const Node& node = graph_.nodes()[i];
    const LayerScope layer(name_of(node));
    if (plan_.nodes[i].strips) {
      conv_by_strips(i);
    } else if (const auto* conv = std::get_if<ConvNode>(&node)) {
      this->conv(*conv, i);
    } else {
      attention(std::get<AttentionNode>(node), i);
    }
    if (run_.launched) run_.launched(i);
  }
}

Pictures Runner::pictures(Activation a) const {
  const Extent e = graph_.extent(a);
  const ActivationPlan& plan = at(a);
  Pictures p;
  if (plan.home == Home::kDevice) p.data = memory(plan.place);
  p.n = run_.batch;
  p.h = static_cast<int>(e.h);
  p.w = static_cast<int>(e.w);
  p.c = static_cast<int>(e.c);
  p.stride = plan.stride;
  p.planar = plan.planar;
  return p;
}

Partials Runner::partials(Activation a) const {
  const ActivationPlan& plan = at(a);
  return {memory<Moments>(plan.moments), plan.slots, plan.units, plan.width, plan.slots};
}

Affine Runner::affine(Activation a, const NormWeights& norm, const Place& place) {
  auto* to = memory<float2>(place);
  const int stride = static_cast<int>(plan_.affine_stride);
  const int channels = static_cast<int>(graph_.extent(a).c);
  finish_norm(partials(a), run_.batch, channels, norm, to, stride, machine_);
  return {to, stride};
}

void Runner::import(const DeviceArray& from, const Pictures& to) {
  const LayerScope layer("the input");
  Import call;
  call.element = run_.element;
  call.a = from.data;
  call.dtype = from.dtype;
  call.strides = from.strides;
  call.patch = run_.patch;
  call.affine = run_.input_affine;
  call.y = to;
  import_pictures(call, machine_);
}

Conv Runner::described(const ConvPlan& plan, const ConvWeights& weights) const {
  Conv call;
  call.element = run_.element;
  call.mode = plan.mode;
  call.weights = weights.packed;
  call.bias = weights.bias;
  call.scale = weights.scale;
  call.weight_rows = plan.weight_rows;
  call.row_tile = plan.row_tile;
  return call;
}

void Runner::launch(const Conv& call, Path path) {
  switch (path) {
    case Path::kHopper:
      return (is_hopper_conv_out(call) ? hopper_conv_out : hopper_conv)(call, machine_);
    case Path::kMma:
      return mma_conv(call, machine_);
    case Path::kSimt:
      return simt_conv(call, machine_);
  }
}

void Runner::launch_conv(Conv call, const ConvPlan& plan, Activation y) {
  call.y = pictures(y);
  if (!call.y) call.store = {run_.output.data, run_.output.dtype, run_.output.strides};
  const bool wants_stats = graph_.stats_groups(y) > 0;
  if (wants_stats && at(y).fused) call.stats = partials(y);
  launch(call, plan.path);
  if (wants_stats && !at(y).fused) {
    channel_moments(run_.element, call.y, partials(y), machine_);
  }
}

void Runner::conv(const ConvNode& node, size_t i) {
  if (plan_.nodes[i].skipped) return;
  const NodeWeights& weights = run_.weights->node(i);
  const ConvPlan& plan = plan_.nodes[i].conv;
  Conv call = described(plan, weights.conv);
  call.x = pictures(node.x);
  if (node.norm) call.affine = affine(node.x, weights.norm, plan_.affine);
  if (node.residual) (node.shortcut ? call.shortcut : call.residual) = pictures(*node.residual);
  launch_conv(call, plan, node.y);
}

void Runner::attention(const AttentionNode& node, size_t i) {
  const AttentionPlan& plan = *plan_.nodes[i].attention;
  const NodeWeights& weights = run_.weights->node(i);
  const Pictures x = pictures(node.x);
  Pictures normed = x, queries = x;
  normed.data = memory(plan.normed);
  queries.data = memory(plan.query_rows);
  normed.planar = queries.planar = plan.hopper;
  if (!plan.hopper) normed.stride = run_.element == Element::kF32 ? x.c : (x.c + 7) / 8 * 8;
  queries.stride = normed.stride;

  ApplyNorm apply;
  apply.element = run_.element;
  apply.x = x;
  apply.y = normed;
  apply.affine = affine(node.x, weights.norm, plan_.affine);
  apply.transposed = memory(plan.transposed);
  apply.transposed_stride = plan.pitch;
  apply.largest = memory<unsigned>(plan.largest);
  if (apply.largest != nullptr) {
    check(cudaMemsetAsync(apply.largest, 0, sizeof(unsigned) * static_cast<size_t>(x.n),
                          machine_.stream),
          "cudaMemsetAsync");
  }
  apply_norm(apply, machine_);

  Conv query = described(plan.query, weights.conv);
  query.x = normed;
  query.y = queries;
  launch(query, plan.query.path);

  if (plan.bounded) {
    mix_bounded(plan, normed, queries);
  } else {
    mix(plan, normed, queries);
  }

  Conv out = described(plan.out, weights.out);
  out.x = queries;  // now the averages
  out.residual = x;
  launch_conv(out, plan.out, node.y);
}

// queries = softmax2(queries normed^T) normed, some pictures and rows at a time.
void Runner::mix_bounded(const AttentionPlan& plan, const Pictures& normed,
                         const Pictures& queries) {
  const int tokens = static_cast<int>(normed.pixels());
  for (int b = 0; b < normed.n; b += static_cast<int>(plan.pictures)) {
    for (int row = 0; row < tokens; row += static_cast<int>(plan.rows)) {
      BoundedAttention call;
      call.x = normed;
      call.q = queries;
      call.transposed = memory(plan.transposed);
      call.pitch = plan.pitch;
      call.first_picture = b;
      call.pictures = std::min(static_cast<int>(plan.pictures), normed.n - b);
      call.first_row = row;
      call.rows = std::min(static_cast<int>(plan.rows), tokens - row);
      call.p = memory(plan.p);
      call.sums = memory<float>(plan.sums);
      call.bounds = memory<float>(plan.bounds);
      call.scales = memory<float>(plan.scales);
      call.largest = memory<unsigned>(plan.largest);
      plan.hopper ? hopper_attention(call, machine_) : mma_attention(call, machine_);
    }
  }
}

void Runner::mix(const AttentionPlan& plan, const Pictures& normed, const Pictures& queries) {
  const int64_t bytes = element_bytes();
  const auto product = run_.element == Element::kF32 ? simt_product : mma_product;
  const int tokens = static_cast<int>(normed.pixels());
  const auto offset = [&](const void* data, int64_t elements) {
    return static_cast<char*>(const_cast<void*>(data)) + elements * bytes;
  };
  for (int b = 0; b < normed.n; b++) {
    const int64_t picture = int64_t{b} * tokens;
    for (int row = 0; row < tokens; row += static_cast<int>(plan.rows)) {
      const int rows = std::min(static_cast<int>(plan.rows), tokens - row);
      void* const q = offset(queries.data, (picture + row) * queries.stride);
      Product scores;
      scores.element = run_.element;
      scores.m = rows;
      scores.n = tokens;
      scores.k = normed.c;
      scores.a = q;
      scores.lda = queries.stride;
      scores.b = offset(normed.data, picture * normed.stride);
      scores.ldb = normed.stride;
      scores.c = memory(plan.scores);
      scores.ldc = plan.pitch;
      scores.c_is_f32 = true;
      product(scores, machine_);

      softmax({run_.element, memory<float>(plan.scores), plan.pitch, memory(plan.p), plan.pitch,
               rows, tokens},
              machine_);

      Product values;
      values.element = run_.element;
      values.m = rows;
      values.n = normed.c;
      values.k = tokens;
      values.a = memory(plan.p);
      values.lda = plan.pitch;
      values.b = offset(memory(plan.transposed), int64_t{b} * normed.c * plan.pitch);
      values.ldb = plan.pitch;
      values.c = q;
      values.ldc = queries.stride;
      product(values, machine_);
    }
  }
}

void run_graph(const GraphRun& run, const Machine& machine) { Runner(run, machine).run(); }

const char* algorithm_of(const NodePlan& plan) {
  switch (plan.attention ? plan.attention->query.path : plan.conv.path) {
    case Path::kHopper:
      return plan.attention && !plan.attention->hopper ? "mma.sync"
             : plan.conv.fp8                           ? "wgmma e4m3"
                                                       : "wgmma";
    case Path::kMma:
      return "mma.sync";
    case Path::kSimt:
      return "float32";
  }
  return "";
}

}  // namespace calotype::cuda
