// How far a result is from the truth.
#pragma once

#include <span>
#include <string>

namespace calotype::test {

struct Difference {
  double relative_rms = 0;  // |a - b| / |b|
  double maximum = 0;       // of |a - b|
  double psnr = 0;          // dB, peak = max(b) - min(b)
};

// Infinite where a value is not finite or the sizes differ.
Difference difference(std::span<const float> a, std::span<const double> b);
Difference difference(std::span<const float> a, std::span<const float> b);
Difference difference(std::span<const double> a, std::span<const double> b);

}  // namespace calotype::test
