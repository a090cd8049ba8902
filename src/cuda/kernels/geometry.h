// How a convolution is cut into work: the same for every kernel and for the packing of weights.
//
// A convolution is a matrix product: rows are output pixels, columns output channels, and the depth
// K runs over (input channel, tap). Channels go in slabs of 64; of each slab a box of pixels is
// loaded once, and every tap reads it shifted. Sampling becomes phases, so that every read is of
// stride 1:
// - kUp, nearest 2x and then 3x3: each of the four output phases (y % 2, x % 2) is a 2x2
//   convolution of the small picture, its weights sums of the 3x3 ones (4/9 of the arithmetic).
// - kDown, stride 2: the four phases of the input are four small pictures with 4, 2, 2 and 1 taps.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define CALOTYPE_HD __host__ __device__
#else
#define CALOTYPE_HD
#endif

namespace calotype::cuda {

enum class Mode : int { kPoint, kSame, kUp, kDown };

inline constexpr int kSlab = 64;  // channels: 128 bytes of bf16, the width of TMA's widest swizzle

// The taps of one slab: tap (i, j), i < ny, j < nx, reads the box shifted by (oy + i, ox + j).
struct Taps {
  int ny, nx, oy, ox;
};

CALOTYPE_HD constexpr int input_phases(Mode mode) { return mode == Mode::kDown ? 4 : 1; }
CALOTYPE_HD constexpr int output_phases(Mode mode) { return mode == Mode::kUp ? 4 : 1; }
// Rows and columns that a box has beyond the outputs that it serves, and where it starts.
CALOTYPE_HD constexpr int box_margin(Mode mode) {
  return mode == Mode::kPoint ? 0 : mode == Mode::kDown ? 1 : 2;
}
CALOTYPE_HD constexpr int box_origin(Mode mode) {
  return mode == Mode::kSame || mode == Mode::kUp ? -1 : 0;
}
// Taps per slab of channels, over all input phases.
CALOTYPE_HD constexpr int taps_per_slab(Mode mode) {
  return mode == Mode::kPoint ? 1 : mode == Mode::kUp ? 4 : 9;
}
CALOTYPE_HD constexpr Taps taps_of(Mode mode, int input_phase, int output_phase) {
  switch (mode) {
    case Mode::kPoint:
      return {1, 1, 0, 0};
    case Mode::kSame:
      return {3, 3, 0, 0};
    case Mode::kUp:
      return {2, 2, output_phase >> 1, output_phase & 1};
    case Mode::kDown:
      return {2 - (input_phase >> 1), 2 - (input_phase & 1), 0, 0};
  }
  return {0, 0, 0, 0};
}
CALOTYPE_HD constexpr int slabs_of(int channels) { return (channels + kSlab - 1) / kSlab; }

// The 3x3 weights along one axis that tap `tap` of phase `phase` is the sum of: [first, last].
struct Span {
  int first, last;
};
CALOTYPE_HD constexpr Span kernel_span(Mode mode, int phase, int tap) {
  if (mode == Mode::kUp) {
    // Output 2i + phase reads the doubled rows 2i + phase - 1 .. 2i + phase + 1.
    if (phase == 0) return tap == 0 ? Span{0, 0} : Span{1, 2};
    return tap == 0 ? Span{0, 1} : Span{2, 2};
  }
  if (mode == Mode::kDown) return {2 * tap + phase, 2 * tap + phase};
  return {tap, tap};
}

}  // namespace calotype::cuda
