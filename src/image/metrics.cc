// PSNR, and SSIM of Wang, Bovik, Sheikh and Simoncelli, "Image Quality Assessment: From Error
// Visibility to Structural Similarity", IEEE Transactions on Image Processing 13(4), 2004.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

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

std::vector<uint8_t> rounded(const Tensor& image) {
  std::vector<uint8_t> bytes(static_cast<size_t>(image.size()));
  to_uint8(image.values(), bytes);
  return bytes;
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

// The five moments that SSIM is made of, each a row or a window of weighted sums.
enum Moment { kA, kB, kAA, kBB, kAB, kMoments };
using Moments = std::array<std::vector<double>, kMoments>;

struct Plane {  // one channel of one picture pair
  const uint8_t* a;
  const uint8_t* b;
  int64_t height, width, channels;
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

// The moments of row y, filtered along x; `pixels` keeps its memory from row to row.
void filter_row(const Plane& p, int64_t y, const std::vector<double>& window, Moments& pixels,
                Moments& row) {
  for (auto& moment : pixels) moment.resize(static_cast<size_t>(p.width));
  for (int64_t x = 0; x < p.width; x++) {
    const int64_t at = (y * p.width + x) * p.channels;
    const double a = p.a[at], b = p.b[at];
    const auto i = static_cast<size_t>(x);
    pixels[kA][i] = a;
    pixels[kB][i] = b;
    pixels[kAA][i] = a * a;
    pixels[kBB][i] = b * b;
    pixels[kAB][i] = a * b;
  }
  for (size_t m = 0; m < kMoments; m++) {
    row[m].resize(static_cast<size_t>(p.width) - window.size() + 1);
    weigh(
        window, [&](size_t k) { return pixels[m].data() + k; }, row[m]);
  }
}

double ssim_of(const std::array<double, kMoments>& m) {
  constexpr double kC1 = (0.01 * 255) * (0.01 * 255), kC2 = (0.03 * 255) * (0.03 * 255);
  const double var_a = m[kAA] - m[kA] * m[kA], var_b = m[kBB] - m[kB] * m[kB];
  const double cov = m[kAB] - m[kA] * m[kB];
  return (2 * m[kA] * m[kB] + kC1) * (2 * cov + kC2) /
         ((m[kA] * m[kA] + m[kB] * m[kB] + kC1) * (var_a + var_b + kC2));
}

// Mean over the windows that lie wholly inside. Only as many filtered rows as a window has are
// kept.
double ssim_of(const Plane& p) {
  // Sides under 11 take the largest window that fits.
  const auto columns = gaussian(std::min<int64_t>(5, (p.width - 1) / 2));
  const auto rows = gaussian(std::min<int64_t>(5, (p.height - 1) / 2));
  std::vector<Moments> ring(rows.size());
  Moments pixels, window;
  double sum = 0;
  int64_t windows = 0;
  for (int64_t y = 0; y < p.height; y++) {
    filter_row(p, y, columns, pixels, ring[static_cast<size_t>(y) % rows.size()]);
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
      sum +=
          ssim_of({window[kA][x], window[kB][x], window[kAA][x], window[kBB][x], window[kAB][x]});
    }
  }
  return sum / static_cast<double>(windows);
}

}  // namespace

double psnr(const Tensor& a, const Tensor& b) {
  check_same_shape(a, b);
  const std::vector<uint8_t> a8 = rounded(a), b8 = rounded(b);
  int64_t square = 0;
  for (size_t i = 0; i < a8.size(); i++) {
    const int64_t d = int64_t{a8[i]} - int64_t{b8[i]};
    square += d * d;
  }
  if (square == 0) return std::numeric_limits<double>::infinity();
  const double mean = static_cast<double>(square) / static_cast<double>(a8.size());
  return 10 * std::log10(255.0 * 255.0 / mean);
}

double ssim(const Tensor& a, const Tensor& b) {
  check_same_shape(a, b);
  const std::vector<uint8_t> a8 = rounded(a), b8 = rounded(b);
  const int64_t height = a.dim(1), width = a.dim(2), channels = a.dim(3);
  const int64_t planes = a.dim(0) * channels;
  double sum = 0;
  for (int64_t i = 0; i < planes; i++) {
    const int64_t start = i / channels * height * width * channels + i % channels;
    sum += ssim_of(Plane{a8.data() + start, b8.data() + start, height, width, channels});
  }
  return sum / static_cast<double>(planes);
}

}  // namespace calotype
