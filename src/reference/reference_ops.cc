#include "reference/reference_ops.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <functional>
#include <limits>
#include <mutex>
#include <thread>

#include "core/cat.h"

namespace calotype {
namespace {

std::vector<double> numbers(const TensorView& view) {
  std::vector<double> values(static_cast<size_t>(view.size()));
  copy_elements(view, 0, std::span<double>(values));
  return values;
}

double silu(double v) { return v / (1 + std::exp(-v)); }

// body(i) for i in [0, count), on several threads; tick from the calling one.
void for_each_row(int threads, int64_t count, const Ops::Tick& tick,
                  const std::function<void(int64_t)>& body) {
  std::atomic<int64_t> next{0};
  std::mutex mutex;
  std::exception_ptr stopped;
  const auto work = [&](const Ops::Tick& told) {
    try {
      for (int64_t i = next++; i < count; i = next++) {
        body(i);
        if (told) told(static_cast<double>(i) / static_cast<double>(count));
      }
    } catch (...) {
      next = count;
      const std::lock_guard lock(mutex);
      if (!stopped) stopped = std::current_exception();
    }
  };
  {
    std::vector<std::jthread> others;  // joined however this ends
    for (int t = 1; t < threads; t++) others.emplace_back(work, Ops::Tick());
    work(tick);
  }
  if (stopped) std::rethrow_exception(stopped);
}

// The tick of part `index` of `parts` of a call.
Ops::Tick part(const Ops::Tick& tick, int64_t index, int64_t parts) {
  return [&tick, index, parts](double fraction) {
    tick((static_cast<double>(index) + fraction) / static_cast<double>(parts));
  };
}

// A whole activation of one picture, after the norm (and SiLU) that its reader asks for.
class Input {
 public:
  Input(const ConstRows& rows, int64_t picture, const std::optional<GroupNorm>& norm,
        std::span<const GroupStats> stats, bool with_silu)
      : rows_(rows), data_(static_cast<const double*>(rows.data) + picture * rows.picture_stride) {
    const int64_t c = rows.extent.c;
    scale_.assign(static_cast<size_t>(c), 1);
    offset_.assign(static_cast<size_t>(c), 0);
    silu_ = with_silu && norm;
    if (!norm) return;
    const std::vector<double> weight = numbers(norm->weight), bias = numbers(norm->bias);
    const int64_t width = c / norm->groups;
    for (int64_t k = 0; k < c; k++) {
      const GroupStats& group = stats[static_cast<size_t>(picture * norm->groups + k / width)];
      const auto i = static_cast<size_t>(k);
      scale_[i] = weight[i] / std::sqrt(group.m2 / group.count + norm->eps);
      offset_[i] = bias[i] - group.mean * scale_[i];
    }
  }

  // Zero outside the picture.
  double at(int64_t y, int64_t x, int64_t k) const {
    const Extent& e = rows_.extent;
    if (y < 0 || y >= e.h || x < 0 || x >= e.w) return 0;
    const auto i = static_cast<size_t>(k);
    const double v = data_[((y - rows_.first_row) * e.w + x) * e.c + k] * scale_[i] + offset_[i];
    return silu_ ? silu(v) : v;
  }

  // Row y as [w][c], normed once.
  void row(int64_t y, std::vector<double>& out) const {
    const Extent& e = rows_.extent;
    out.resize(static_cast<size_t>(e.w * e.c));
    for (int64_t x = 0; x < e.w; x++) {
      for (int64_t k = 0; k < e.c; k++) out[static_cast<size_t>(x * e.c + k)] = at(y, x, k);
    }
  }

 private:
  const ConstRows& rows_;
  const double* data_;
  std::vector<double> scale_, offset_;
  bool silu_ = false;
};

class ReferenceOps final : public Ops {
 public:
  explicit ReferenceOps(int threads)
      : threads_(threads > 0
                     ? threads
                     : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()))) {}

  DType element() const override { return DType::kF64; }
  int64_t band_rows(const Graph&, const Node&) const override { return 1; }
  std::string name() const override { return cat("reference-", threads_); }
  int threads() const override { return threads_; }
  std::string algorithm(const Graph&, const Node&) const override { return "float64 loops"; }
  double flop_executed(const Graph& graph, const Node& node) const override {
    return flop_of(graph, node);
  }

  void conv(const ConvCall& call, const Tick& tick) override;
  void attention(const AttentionCall& call, const Tick& tick) override;

 private:
  static void row_stats(const Rows& y, int64_t picture, int64_t row, BandStats* stats);

  int threads_;
};

// Where row (or column) `i` of the padded, resampled input lies in x: i - 1 for kSame; of the
// doubled picture for kUpsample.
int64_t source(Sampling sampling, int64_t i, int64_t tap, int64_t kernel, int64_t size) {
  if (sampling == Sampling::kDownsample) return 2 * i + tap;
  const int64_t at = i + tap - kernel / 2;
  if (sampling == Sampling::kSame) return at;
  return at < 0 || at >= 2 * size ? -1 : at / 2;
}

void ReferenceOps::conv(const ConvCall& call, const Tick& tick) {
  const ConvNode& node = *call.node;
  const int64_t in = node.conv.in, out = node.conv.out, kernel = node.conv.kernel;
  const std::vector<double> weight = numbers(node.conv.weight), bias = numbers(node.conv.bias);
  std::vector<double> shortcut, shortcut_bias;
  if (node.shortcut) {
    shortcut = numbers(node.shortcut->weight);
    shortcut_bias = numbers(node.shortcut->bias);
  }
  const Rows& y = call.y;
  for (int64_t picture = 0; picture < call.batch; picture++) {
    const Input x(call.x, picture, node.norm, call.x_stats, true);
    const double* residual =
        static_cast<const double*>(call.residual.data) + picture * call.residual.picture_stride;
    const auto body = [&](int64_t i) {
      const int64_t row = y.first_row + i;
      std::vector<std::vector<double>> taps(static_cast<size_t>(kernel));
      for (int64_t ky = 0; ky < kernel; ky++) {
        x.row(source(node.sampling, row, ky, kernel, call.x.extent.h),
              taps[static_cast<size_t>(ky)]);
      }
      double* result =
          static_cast<double*>(y.data) + picture * y.picture_stride + i * y.extent.w * out;
      for (int64_t column = 0; column < y.extent.w; column++) {
        const double* old =
            node.residual ? residual + ((row - call.residual.first_row) * y.extent.w + column) *
                                           call.residual.extent.c
                          : nullptr;
        for (int64_t o = 0; o < out; o++) {
          double sum = bias[static_cast<size_t>(o)];
          for (int64_t ky = 0; ky < kernel; ky++) {
            for (int64_t kx = 0; kx < kernel; kx++) {
              const int64_t at = source(node.sampling, column, kx, kernel, call.x.extent.w);
              if (at < 0 || at >= call.x.extent.w) continue;
              const double* v = taps[static_cast<size_t>(ky)].data() + at * in;
              for (int64_t k = 0; k < in; k++) {
                sum +=
                    v[k] * weight[static_cast<size_t>(((o * in + k) * kernel + ky) * kernel + kx)];
              }
            }
          }
          if (old == nullptr) {
            // nothing to add
          } else if (node.shortcut) {
            sum += shortcut_bias[static_cast<size_t>(o)];
            for (int64_t k = 0; k < node.shortcut->in; k++) {
              sum += old[k] * shortcut[static_cast<size_t>(o * node.shortcut->in + k)];
            }
          } else {
            sum += old[o];
          }
          result[column * out + o] = sum;
        }
      }
      row_stats(y, picture, row, call.y_stats);
    };
    for_each_row(threads_, y.rows, part(tick, picture, call.batch), body);
  }
}

void ReferenceOps::row_stats(const Rows& y, int64_t picture, int64_t row, BandStats* stats) {
  if (stats == nullptr) return;
  const Extent& e = y.extent;
  const double* data = static_cast<const double*>(y.data) + picture * y.picture_stride +
                       (row - y.first_row) * e.w * e.c;
  const int64_t width = e.c / stats->groups;
  for (int64_t g = 0; g < stats->groups; g++) {
    GroupStats& group = stats->at(row, picture)[g];
    group = {};
    for (int64_t x = 0; x < e.w; x++) {
      for (int64_t k = 0; k < width; k++) group.merge({1, data[x * e.c + g * width + k], 0});
    }
  }
}

void ReferenceOps::attention(const AttentionCall& call, const Tick& tick) {
  const AttentionNode& node = *call.node;
  const Extent& e = call.x.extent;
  const int64_t c = e.c, tokens = e.h * e.w;
  constexpr int64_t kParts = 5;  // four projections and the softmax, of every picture
  int64_t parts_done = 0;
  const auto next_part = [&] { return part(tick, parts_done++, kParts * call.batch); };
  const auto project = [&](const std::vector<double>& x, const TensorView& w, const TensorView& b) {
    const std::vector<double> weight = numbers(w), bias = numbers(b);
    std::vector<double> y(static_cast<size_t>(tokens * c));
    for_each_row(threads_, tokens, next_part(), [&](int64_t t) {
      for (int64_t o = 0; o < c; o++) {
        double sum = bias[static_cast<size_t>(o)];
        for (int64_t k = 0; k < c; k++)
          sum += x[static_cast<size_t>(t * c + k)] * weight[static_cast<size_t>(o * c + k)];
        y[static_cast<size_t>(t * c + o)] = sum;
      }
    });
    return y;
  };
  for (int64_t picture = 0; picture < call.batch; picture++) {
    const Input x(call.x, picture, node.norm, call.x_stats, false);
    std::vector<double> normed(static_cast<size_t>(tokens * c)), row;
    for (int64_t i = 0; i < e.h; i++) {
      x.row(i, row);
      std::copy(row.begin(), row.end(), normed.begin() + i * e.w * c);
    }
    const std::vector<double> q = project(normed, node.weights.query, node.weights.query_bias);
    const std::vector<double> k = project(normed, node.weights.key, node.weights.key_bias);
    const std::vector<double> v = project(normed, node.weights.value, node.weights.value_bias);
    std::vector<double> mixed(static_cast<size_t>(tokens * c));
    for_each_row(threads_, tokens, next_part(), [&](int64_t t) {
      std::vector<double> score(static_cast<size_t>(tokens));
      double largest = -std::numeric_limits<double>::infinity(), total = 0;
      for (int64_t s = 0; s < tokens; s++) {
        double dot = 0;
        for (int64_t i = 0; i < c; i++)
          dot += q[static_cast<size_t>(t * c + i)] * k[static_cast<size_t>(s * c + i)];
        score[static_cast<size_t>(s)] = dot / std::sqrt(static_cast<double>(c));
        largest = std::max(largest, score[static_cast<size_t>(s)]);
      }
      for (double& s : score) total += s = std::exp(s - largest);
      for (int64_t s = 0; s < tokens; s++) {
        const double p = score[static_cast<size_t>(s)] / total;
        for (int64_t i = 0; i < c; i++)
          mixed[static_cast<size_t>(t * c + i)] += p * v[static_cast<size_t>(s * c + i)];
      }
    });
    const std::vector<double> out = project(mixed, node.weights.out, node.weights.out_bias);
    const double* old = static_cast<const double*>(call.x.data) + picture * call.x.picture_stride;
    double* y = static_cast<double*>(call.y.data) + picture * call.y.picture_stride;
    for (int64_t i = 0; i < tokens * c; i++) y[i] = old[i] + out[static_cast<size_t>(i)];
    for (int64_t i = 0; i < e.h; i++) row_stats(call.y, picture, i, call.y_stats);
  }
}

}  // namespace

std::unique_ptr<Ops> make_reference_ops(int threads) {
  return std::make_unique<ReferenceOps>(threads);
}

}  // namespace calotype
