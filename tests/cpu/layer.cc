#include "cpu/layer.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>

#include "core/cat.h"

namespace calotype::test {
namespace {

int64_t elements(Extent e) { return e.h * e.w * e.c; }

const char* name_of(Sampling s) {
  return s == Sampling::kSame ? "same" : s == Sampling::kUpsample ? "upsample" : "downsample";
}

}  // namespace

std::string describe(const ConvSpec& s) {
  return cat(s.batch, " x ", s.h, "x", s.w, ", ", s.in, " -> ", s.out, " channels, kernel ",
             s.kernel, ", ", name_of(s.sampling), ", norm groups ", s.groups, ", residual ",
             s.residual, ", groups of y ", s.out_groups, ", mean ", s.mean, ", deviation ",
             s.stddev, ", weights ", dtype_name(s.dtype));
}

std::string describe(const AttentionSpec& s) {
  return cat(s.batch, " x ", s.h, "x", s.w, ", ", s.channels, " channels in ", s.groups,
             " groups, gain ", s.gain);
}

TensorView Layer::weights(Shape shape, double stddev, DType dtype, Random& random) {
  const Tensor values = random.normal_tensor(shape, stddev);
  storage_.emplace_back(static_cast<size_t>(byte_count(dtype, shape)));
  convert_elements(values.values(), dtype, storage_.back().data());
  return {dtype, std::move(shape), storage_.back().data()};
}

TensorView Layer::ones_and_noise(int64_t count, double base, Random& random) {
  const Tensor values = random.normal_tensor({count}, 0.2, base);
  storage_.emplace_back(static_cast<size_t>(count) * sizeof(float));
  convert_elements(values.values(), DType::kF32, storage_.back().data());
  return {DType::kF32, {count}, storage_.back().data()};
}

GroupNorm Layer::norm(int64_t channels, int groups, Random& random) {
  return {ones_and_noise(channels, 1, random), ones_and_noise(channels, 0, random), groups, 1e-6};
}

Conv2d Layer::conv(int64_t in, int64_t out, int64_t kernel, DType dtype, Random& random) {
  const double stddev = 1 / std::sqrt(static_cast<double>(in * kernel * kernel));
  return {weights({out, in, kernel, kernel}, stddev, dtype, random), ones_and_noise(out, 0, random),
          in, out, kernel};
}

void Layer::measure_x(int groups) {
  if (groups == 0) return;
  const int64_t c = x_.dim(3), pixels = x_.dim(1) * x_.dim(2), width = c / groups;
  for (int64_t b = 0; b < x_.dim(0); b++) {
    for (int64_t g = 0; g < groups; g++) {
      const auto value = [&](int64_t pixel, int64_t i) {
        return static_cast<double>(x_.data()[(b * pixels + pixel) * c + g * width + i]);
      };
      GroupStats stats;
      stats.count = static_cast<double>(pixels * width);
      for (int64_t p = 0; p < pixels; p++) {
        for (int64_t i = 0; i < width; i++) stats.mean += value(p, i) / stats.count;
      }
      for (int64_t p = 0; p < pixels; p++) {
        for (int64_t i = 0; i < width; i++) stats.m2 += std::pow(value(p, i) - stats.mean, 2);
      }
      x_stats_.push_back(stats);
    }
  }
}

Layer::Layer(const ConvSpec& s, Random& random)
    : batch_(s.batch), out_groups_(s.out_groups), graph_({s.h, s.w, 1}) {
  // Makers of x and of the residual, so that the graph knows their extents; they never run.
  const Activation x = graph_.conv("x", graph_.input(), conv(1, s.in, 1, DType::kF32, random));
  Graph::ConvOptions options;
  options.sampling = s.sampling;
  Activation residual;
  if (s.residual) {
    const Conv2d maker = conv(1, s.out, s.kernel, DType::kF32, random);
    residual =
        graph_.conv("residual", graph_.input(), maker, {s.sampling, nullptr, nullptr, nullptr});
    options.residual = &residual;
  }
  GroupNorm norm_of_x;
  if (s.groups > 0) {
    norm_of_x = norm(s.in, s.groups, random);
    options.norm = &norm_of_x;
  }
  const Activation y = graph_.conv("y", x, conv(s.in, s.out, s.kernel, s.dtype, random), options);
  node_ = graph_.nodes().back();
  const GroupNorm reader = norm(s.out, s.out_groups, random);
  graph_.conv("reader", y, conv(s.out, 1, 1, DType::kF32, random),
              {Sampling::kSame, &reader, nullptr, nullptr});

  x_ = random.normal_tensor({s.batch, s.h, s.w, s.in}, s.stddev, s.mean);
  if (s.residual) {
    const Extent e = graph_.extent(residual);
    residual_ = random.normal_tensor({s.batch, e.h, e.w, e.c});
  }
  measure_x(s.groups);
}

Layer::Layer(const AttentionSpec& s, Random& random)
    : batch_(s.batch), out_groups_(s.out_groups), graph_({s.h, s.w, 1}) {
  const Activation x =
      graph_.conv("x", graph_.input(), conv(1, s.channels, 1, DType::kF32, random));
  const int64_t c = s.channels;
  const double stddev = 1 / std::sqrt(static_cast<double>(c));
  AttentionWeights w;
  w.query = weights({c, c}, s.gain * stddev, DType::kF32, random);
  for (TensorView* matrix : {&w.key, &w.value, &w.out}) {
    *matrix = weights({c, c}, stddev, DType::kF32, random);
  }
  for (TensorView* bias : {&w.query_bias, &w.key_bias, &w.value_bias, &w.out_bias}) {
    *bias = ones_and_noise(c, 0, random);
  }
  const Activation y = graph_.attention("y", x, norm(c, s.groups, random), w);
  node_ = graph_.nodes().back();
  const GroupNorm reader = norm(c, s.out_groups, random);
  graph_.conv("reader", y, conv(c, 1, 1, DType::kF32, random),
              {Sampling::kSame, &reader, nullptr, nullptr});
  x_ = random.normal_tensor({s.batch, s.h, s.w, c});
  measure_x(s.groups);
}

template <class T>
LayerResult Layer::run_as(Ops& ops, const LayerCall& how) const {
  const int64_t batch = how.pictures > 0 ? how.pictures : batch_;
  const auto pictures = [&](const Tensor& all) {
    const int64_t size = all.size() / batch_;
    const float* first = all.data() + how.first_picture * size;
    return std::vector<T>(first, first + batch * size);
  };
  std::vector<T> x = pictures(x_), residual;
  if (residual_.size() > 0) residual = pictures(residual_);
  const Extent extent = graph_.extent(output_of(node_)),
               x_extent = graph_.extent(inputs_of(node_)[0]);
  std::vector<T> memory(static_cast<size_t>(batch * elements(extent)));
  const bool attends = std::holds_alternative<AttentionNode>(node_);
  std::vector<T>& y = !how.in_place ? memory : attends ? x : residual;

  LayerResult result;
  BandStats& bands = result.bands;
  bands.band_rows = ops.band_rows(graph_, node_);
  bands.bands = (extent.h + bands.band_rows - 1) / bands.band_rows;
  bands.batch = batch;
  bands.groups = out_groups_;
  bands.values.resize(static_cast<size_t>(bands.bands * batch * out_groups_));

  const auto whole = [&](std::vector<T>& data, Extent e) {
    return Rows{data.data(), 0, e.h, elements(e), e};
  };
  const size_t per_picture = x_stats_.size() / static_cast<size_t>(batch_);
  const std::span<const GroupStats> stats(
      x_stats_.data() + static_cast<size_t>(how.first_picture) * per_picture,
      static_cast<size_t>(batch) * per_picture);
  if (attends) {
    AttentionCall call;
    call.node = &std::get<AttentionNode>(node_);
    call.batch = batch;
    call.x = whole(x, x_extent);
    call.x_stats = stats;
    call.y = whole(y, extent);
    call.y_stats = &bands;
    ops.attention(call, how.tick);
  } else {
    ConvCall call;
    call.node = &std::get<ConvNode>(node_);
    call.batch = batch;
    call.x = whole(x, x_extent);
    call.x_stats = stats;
    if (!residual.empty()) call.residual = whole(residual, graph_.extent(inputs_of(node_)[1]));
    call.y_stats = &bands;
    const int64_t prepared_bytes = ops.prepared_bytes(graph_, node_);
    const std::unique_ptr<std::byte, decltype(&std::free)> prepared(
        static_cast<std::byte*>(
            std::aligned_alloc(64, static_cast<size_t>((prepared_bytes + 63) / 64 * 64))),
        &std::free);
    if (prepared_bytes > 0) {
      ops.prepare(graph_, node_, prepared.get(), [](double) {});
      call.prepared = prepared.get();
    }
    for (int64_t i = 0; i < how.calls; i++) {
      const int64_t first = bands.bands * i / how.calls, end = bands.bands * (i + 1) / how.calls;
      if (first == end) continue;
      call.y = whole(y, extent);
      call.y.first_row = first * bands.band_rows;
      call.y.rows = std::min(end * bands.band_rows, extent.h) - call.y.first_row;
      call.y.data = y.data() + call.y.first_row * extent.w * extent.c;
      ops.conv(call, how.tick);
    }
  }
  result.y.assign(y.begin(), y.end());
  result.stats = bands.merged();
  return result;
}

LayerResult Layer::run(Ops& ops, const LayerCall& call) const {
  return ops.element() == DType::kF64 ? run_as<double>(ops, call) : run_as<float>(ops, call);
}

}  // namespace calotype::test
