#include "support/compare.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace calotype::test {
namespace {

template <class A, class B>
Difference compare(std::span<const A> a, std::span<const B> b) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (a.size() != b.size()) return {kInfinity, kInfinity, -kInfinity};
  double square = 0, norm = 0, maximum = 0, low = kInfinity, high = -kInfinity;
  for (size_t i = 0; i < a.size(); i++) {
    const double truth = static_cast<double>(b[i]);
    const double error = std::abs(static_cast<double>(a[i]) - truth);
    if (!std::isfinite(error)) return {kInfinity, kInfinity, -kInfinity};
    square += error * error;
    norm += truth * truth;
    maximum = std::max(maximum, error);
    low = std::min(low, truth);
    high = std::max(high, truth);
  }
  if (square == 0) return {0, 0, kInfinity};
  const double mean_square = square / static_cast<double>(a.size());
  return {std::sqrt(square / norm), maximum,
          10 * std::log10((high - low) * (high - low) / mean_square)};
}

}  // namespace

Difference difference(std::span<const float> a, std::span<const double> b) { return compare(a, b); }
Difference difference(std::span<const float> a, std::span<const float> b) { return compare(a, b); }
Difference difference(std::span<const double> a, std::span<const double> b) {
  return compare(a, b);
}

}  // namespace calotype::test
