// Which rows of its input a strip of a convolution's output is computed from.
#pragma once

#include <algorithm>

#include "cuda/kernels/geometry.h"

namespace calotype::cuda {

// Rows [first, last) of a picture.
struct Rows {
  int first = 0, last = 0;

  int count() const { return last - first; }
};

// Of an input of `height` rows. With kUp, strips of the output begin and end at even rows.
inline Rows input_rows(Mode mode, Rows y, int height) {
  switch (mode) {
    case Mode::kPoint:
      return y;
    case Mode::kSame:
      return {std::max(0, y.first - 1), std::min(height, y.last + 1)};
    case Mode::kUp:
      return {std::max(0, y.first / 2 - 1), std::min(height, y.last / 2 + 1)};
    case Mode::kDown:
      return {2 * y.first, std::min(height, 2 * y.last + 1)};
  }
  return {};
}

// Conv::rows_above of such a strip.
inline int rows_above(Mode mode, Rows y, Rows x) {
  if (mode == Mode::kDown) return 0;
  return (mode == Mode::kUp ? y.first / 2 : y.first) - x.first;
}

}  // namespace calotype::cuda
