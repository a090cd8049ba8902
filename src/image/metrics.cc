// PSNR, and SSIM of Wang, Bovik, Sheikh and Simoncelli, "Image Quality Assessment: From Error
// Visibility to Structural Similarity", IEEE Transactions on Image Processing 13(4), 2004.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "calotype/image.h"
#include "core/cat.h"

namespace calotype {
namespace {

void check_same_shape(const Tensor& a, const Tensor& b) {
  if (a.shape() != b.shape() || a.shape().size() != 4 || a.size() == 0) {
    fail(ErrorCode::kInvalidArgument, "pictures of shapes ", shape_string(a.shape()), " and ",
         shape_string(b.shape()), " cannot be compared; both must be [B, H, W, C], the same");
  }
}

// A Gaussian of sigma 1.5 over 2 * radius + 1 samples, of sum 1.
std::vector<double> gaussian(int64_t radius) {
  constexpr double kSigma = 1.5;
  std::vector<double> weights;
  double sum = 0;
  for (int64_t i = -radius; i <= radius; i++) {
    weights.push_back(std::exp(-static_cast<double>(i * i) / (2 * kSigma * kSigma)));
    sum += weights.back();
  }
  for (double& w : weights) w /= sum;
  return weights;
}

// The moments that SSIM is made of, of a, b, a^2 + b^2 and a b, each a row or a window of weighted
// sums.
enum Moment { kA, kB, kSquares, kAB, kMoments };
using Moments = std::array<std::vector<double>, kMoments>;

struct Pair {  // of pictures [height][row], a row of width * channels values
  const float* a;
  const float* b;
  int64_t height, width, channels;

  int64_t row() const { return width * channels; }
};

// to[i] = the sum of weights[k] * from(k)[i]. Weights are symmetric: two values meet each, and a
// pass over `to` takes two weights, since reading and writing it costs as much as they do.
template <class From>
void weigh(const std::vector<double>& weights, const From& from, std::vector<double>& to) {
  const size_t radius = weights.size() / 2, last = weights.size() - 1;
  const double* middle = from(radius);
  for (size_t i = 0; i < to.size(); i++) to[i] = weights[radius] * middle[i];
  size_t k = 0;
  for (; k + 1 < radius; k += 2) {
    const double w0 = weights[k], w1 = weights[k + 1];
    const double *a0 = from(k), *a1 = from(k + 1), *b0 = from(last - k), *b1 = from(last - k - 1);
    double* sum = to.data();
    for (size_t i = 0; i < to.size(); i++) sum[i] += w0 * (a0[i] + b0[i]) + w1 * (a1[i] + b1[i]);
  }
  if (k == radius) return;
  const double *a = from(k), *b = from(last - k);
  for (size_t i = 0; i < to.size(); i++) to[i] += weights[k] * (a[i] + b[i]);
}

// What filter_row keeps from row to row, for its memory.
struct RowScratch {
  explicit RowScratch(const Pair& p)
      : a(static_cast<size_t>(p.row())), b(static_cast<size_t>(p.row())) {
    for (auto& moment : moments) moment.resize(static_cast<size_t>(p.row()));
  }
  std::vector<uint8_t> a, b;
  Moments moments;
};

// The moments of row y, all channels, filtered along x.
void filter_row(const Pair& p, int64_t y, const std::vector<double>& window, RowScratch& scratch,
                Moments& row) {
  const auto values = [&](const float* picture) {
    return std::span(picture + y * p.row(), static_cast<size_t>(p.row()));
  };
  to_uint8(values(p.a), scratch.a);
  to_uint8(values(p.b), scratch.b);
  Moments& pixels = scratch.moments;
  for (size_t i = 0; i < scratch.a.size(); i++) {
    const double a = scratch.a[i], b = scratch.b[i];
    pixels[kA][i] = a;
    pixels[kB][i] = b;
    pixels[kSquares][i] = a * a + b * b;
    pixels[kAB][i] = a * b;
  }
  const auto channels = static_cast<size_t>(p.channels);
  for (size_t m = 0; m < kMoments; m++) {
    row[m].resize(scratch.a.size() - (window.size() - 1) * channels);
    weigh(
        window, [&](size_t k) { return pixels[m].data() + k * channels; }, row[m]);
  }
}

double ssim_of(const std::array<double, kMoments>& m) {
  constexpr double kC1 = (0.01 * 255) * (0.01 * 255), kC2 = (0.03 * 255) * (0.03 * 255);
  const double means = m[kA] * m[kB], squares = m[kA] * m[kA] + m[kB] * m[kB];
  const double covariance = m[kAB] - means, variances = m[kSquares] - squares;
  return (2 * means + kC1) * (2 * covariance + kC2) / ((squares + kC1) * (variances + kC2));
}

// Mean over the windows that lie wholly inside. Only as many filtered rows as a window has are
// kept.
double ssim_of(const Pair& p) {
  // Sides under 11 take the largest window that fits.
  const auto columns = gaussian(std::min<int64_t>(5, (p.width - 1) / 2));
  const auto rows = gaussian(std::min<int64_t>(5, (p.height - 1) / 2));
  std::vector<Moments> ring(rows.size());
  RowScratch scratch(p);
  Moments window;
  double sum = 0;
  int64_t windows = 0;
  for (int64_t y = 0; y < p.height; y++) {
    filter_row(p, y, columns, scratch, ring[static_cast<size_t>(y) % rows.size()]);
    const int64_t top = y - static_cast<int64_t>(rows.size()) + 1;
    if (top < 0) continue;
    for (size_t m = 0; m < kMoments; m++) {
      window[m].resize(ring[0][m].size());
      const auto row = [&](size_t k) {
        return ring[(static_cast<size_t>(top) + k) % rows.size()][m].data();
      };
      weigh(rows, row, window[m]);
    }
    for (size_t x = 0; x < window[kA].size(); x++, windows++) {
      sum += ssim_of({window[kA][x], window[kB][x], window[kSquares][x], window[kAB][x]});
    }
  }
  return sum / static_cast<double>(windows);
}

}  // namespace

double psnr(const Tensor& a, const Tensor& b) {
  check_same_shape(a, b);
  constexpr size_t kChunk = 4096;
  uint8_t a8[kChunk], b8[kChunk];
  int64_t square = 0;
  const auto size = static_cast<size_t>(a.size());
  for (size_t first = 0; first < size; first += kChunk) {
    const size_t count = std::min(kChunk, size - first);
    to_uint8(a.values().subspan(first, count), std::span(a8, count));
    to_uint8(b.values().subspan(first, count), std::span(b8, count));
    int sum = 0;  // at most 4096 * 255^2
    for (size_t i = 0; i < count; i++) {
      const int d = int{a8[i]} - int{b8[i]};
      sum += d * d;
    }
    square += sum;
  }
  if (square == 0) return std::numeric_limits<double>::infinity();
  const double mean = static_cast<double>(square) / static_cast<double>(size);
  return 10 * std::log10(255.0 * 255.0 / mean);
}

double ssim(const Tensor& a, const Tensor& b) {
  check_same_shape(a, b);
  const int64_t height = a.dim(1), width = a.dim(2), channels = a.dim(3);
  double sum = 0;
  for (int64_t i = 0; i < a.dim(0); i++) {
    const int64_t at = i * height * width * channels;
    sum += ssim_of(Pair{a.data() + at, b.data() + at, height, width, channels});
  }
  return sum / static_cast<double>(a.dim(0));
}

}  // namespace calotype
