// Resampling as Pillow's Image.resize(LANCZOS) does it (libImaging/Resample.c): a Lanczos window
// that widens with the scale when shrinking, cut at the edges and normalised.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "calotype/image.h"
#include "core/cat.h"
#include "core/checked.h"

namespace calotype {
namespace {

constexpr double kLobes = 3;

double sinc(double x) {
  const double t = std::numbers::pi * x;
  return x == 0 ? 1 : std::sin(t) / t;
}

double lanczos(double x) { return std::abs(x) < kLobes ? sinc(x) * sinc(x / kLobes) : 0; }

// An output sample is the sum of `weights.size()` input samples from `first` on, weighted.
struct Taps {
  int64_t first = 0;
  std::vector<float> weights;
};

std::vector<Taps> taps_of(int64_t in, int64_t out) {
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  const double stretch = std::max(scale, 1.0);
  const double support = kLobes * stretch;
  std::vector<Taps> all(static_cast<size_t>(out));
  std::vector<double> weights;
  for (int64_t i = 0; i < out; i++) {
    const double centre = (static_cast<double>(i) + 0.5) * scale;
    const int64_t first = std::max<int64_t>(0, static_cast<int64_t>(centre - support + 0.5));
    const int64_t end = std::min(in, static_cast<int64_t>(centre + support + 0.5));
    weights.clear();
    double sum = 0;
    for (int64_t k = first; k < end; k++) {
      weights.push_back(lanczos((static_cast<double>(k) - centre + 0.5) / stretch));
      sum += weights.back();
    }
    Taps& taps = all[static_cast<size_t>(i)];
    taps.first = first;
    for (const double w : weights) taps.weights.push_back(static_cast<float>(w / sum));
  }
  return all;
}

// y[i] += weight * x[i]
void add_scaled(float weight, const float* x, float* y, int64_t n) {
  for (int64_t i = 0; i < n; i++) y[i] += weight * x[i];
}

// The dimension of length `in` of [outer, in, inner] becomes taps.size() long.
Tensor resample(const Tensor& x, Shape shape, int64_t outer, int64_t in, int64_t inner,
                const std::vector<Taps>& taps) {
  Tensor y(std::move(shape));
  const int64_t out = static_cast<int64_t>(taps.size());
  for (int64_t o = 0; o < outer; o++) {
    for (int64_t i = 0; i < out; i++) {
      const Taps& t = taps[static_cast<size_t>(i)];
      float* row = y.data() + (o * out + i) * inner;
      std::fill(row, row + inner, 0.0f);
      for (size_t k = 0; k < t.weights.size(); k++) {
        const float* source = x.data() + (o * in + t.first + static_cast<int64_t>(k)) * inner;
        add_scaled(t.weights[k], source, row, inner);
      }
    }
  }
  return y;
}

// The window has negative lobes, and beside a hard edge the sum leaves the range of pixels. Floats
// that lie outside [-1, 1] themselves widen the range.
void cut_overshoot(const Tensor& images, Tensor& resized) {
  const auto count = static_cast<size_t>(images.dim(0));
  const size_t size = static_cast<size_t>(images.size()) / count;
  const size_t resized_size = static_cast<size_t>(resized.size()) / count;
  for (size_t b = 0; b < count; b++) {
    const auto values = images.values().subspan(b * size, size);
    const auto [low, high] = std::minmax_element(values.begin(), values.end());
    const float least = std::min(-1.0f, *low), most = std::max(1.0f, *high);
    for (float& v : resized.values().subspan(b * resized_size, resized_size)) {
      v = std::clamp(v, least, most);
    }
  }
}

}  // namespace

Tensor resize(const Tensor& image, int64_t height, int64_t width) {
  if (image.shape().size() != 4 || image.size() == 0) {
    fail(ErrorCode::kInvalidArgument, "a tensor of shape ", shape_string(image.shape()),
         " cannot be resized; [B, H, W, C] is expected");
  }
  if (height < 1 || width < 1) {
    fail(ErrorCode::kInvalidArgument, "a picture cannot be resized to ", width, " x ", height,
         " pixels; both sides must be at least 1");
  }
  const int64_t b = image.dim(0), h = image.dim(1), w = image.dim(2), c = image.dim(3);
  if (h == height && w == width) return image.clone();
  checked_mul(checked_mul(b * c, height), std::max(width, w));
  const Tensor narrow = resample(image, {b, h, width, c}, b * h, w, c, taps_of(w, width));
  Tensor resized = resample(narrow, {b, height, width, c}, b, h, width * c, taps_of(h, height));
  cut_overshoot(image, resized);
  return resized;
}

}  // namespace calotype
