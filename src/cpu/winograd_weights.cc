#include "cpu/winograd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/winograd_weights.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.
#include "cpu/gemm-inl.h"
#include "cpu/split-inl.h"
#include "cpu/winograd-inl.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace calotype::cpu {
namespace HWY_NAMESPACE {

// Taps of the 3 that fall on each tap of the 2 of a phase; upsampling, a phase's pixel is reached
// by one tap from one side and by two from the other.
HWY_INLINE void phase_taps(const V* three, bool up, int64_t phase, V* two) {
  if (up) {
    two[0] = phase == 0 ? three[0] : hn::Add(three[0], three[1]);
    two[1] = phase == 0 ? hn::Add(three[1], three[2]) : three[2];
  } else {
    two[0] = phase == 0 ? three[0] : three[1];
    two[1] = phase == 0 ? three[2] : hn::Zero(d);
  }
}

// `taps` [3][3] of one channel and kLanes filters, to out[product][16].
template <class S>
HWY_INLINE void transform_filter(const V (&taps)[9], bool up, int64_t row_phase,
                                 int64_t column_phase, float* out) {
  constexpr int kPoints = S::kPoints;
  V rows[3][kPoints];  // [row tap][column point]
#pragma GCC unroll 3
  for (int64_t r = 0; r < 3; r++) {
    if constexpr (S::kTaps == 3) {
      S::filter(taps + 3 * r, rows[r]);
    } else {
      V two[2];
      phase_taps(taps + 3 * r, up, column_phase, two);
      S::filter(two, rows[r]);
    }
  }
#pragma GCC unroll 8
  for (int c = 0; c < kPoints; c++) {
    const V column[3] = {rows[0][c], rows[1][c], rows[2][c]};
    V points[kPoints];
    if constexpr (S::kTaps == 3) {
      S::filter(column, points);
    } else {
      V two[2];
      phase_taps(column, up, row_phase, two);
      S::filter(two, points);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kPoints; r++) hn::Store(points[r], d, out + (r * kPoints + c) * kBlock);
  }
}

// Channel i of sixteen filters [16][in][9] to products [product][16].
template <class S>
HWY_INLINE void transform_channel(const WinogradShape& s, const float* filters, int64_t i,
                                  int64_t row_phase, int64_t column_phase, float* products) {
  const bool up = s.out_phases == 2, real = i < s.in;
  const int64_t filter = s.in * 9;
  HWY_ALIGN float lanes[9 * kBlock];
  for (int64_t j = 0; j < kBlock; j++) {
    for (int t = 0; t < 9; t++) {
      lanes[t * kBlock + j] = real ? filters[j * filter + i * 9 + t] : 0.0f;
    }
  }
  for (int64_t part = 0; part < kBlock; part += kLanes) {
    V taps[9];
#pragma GCC unroll 9
    for (int t = 0; t < 9; t++) taps[t] = hn::Load(d, lanes + t * kBlock + part);
    transform_filter<S>(taps, up, row_phase, column_phase, products + part);
  }
}

// Sixteen filters to 16 columns of a panel: product i of depth k is at out[i * plane + k * width].
// Whole cache lines are written, past the caches where `stream`.
template <class S>
void transform_filters(const WinogradShape& s, const float* filters, int64_t row_phase,
                       int64_t column_phase, int64_t width, bool stream, float* out) {
  constexpr int kProducts = S::kPoints * S::kPoints;
  const int64_t plane = s.weight_plane();
  HWY_ALIGN float products[kProducts * kBlock];
  for (int64_t i = 0; i < s.in_padded; i++, out += width) {
    transform_channel<S>(s, filters, i, row_phase, column_phase, products);
    for (int64_t product = 0; product < kProducts; product++) {
      for (int64_t part = 0; part < kBlock; part += kLanes) {
        const V v = hn::Load(d, products + product * kBlock + part);
        if (stream) {
          hn::Stream(v, d, out + product * plane + part);
        } else {
          hn::StoreU(v, d, out + product * plane + part);
        }
      }
    }
  }
}

// The same as B of SplitProducts.
template <class S>
void split_filters(const WinogradShape& s, const float* filters, int64_t row_phase,
                   int64_t column_phase, float* out) {
  constexpr int kProducts = S::kPoints * S::kPoints;
  const int64_t plane = 2 * s.weight_plane();
  HWY_ALIGN float early[kProducts * kBlock];
  HWY_ALIGN float late[kProducts * kBlock];
  for (int64_t i = 0; i < s.in_padded / 2; i++) {
    const int64_t step = i / kBlock, row = i % kBlock;
    transform_channel<S>(s, filters, step * 2 * kBlock + row, row_phase, column_phase, early);
    transform_channel<S>(s, filters, step * 2 * kBlock + kBlock + row, row_phase, column_phase,
                         late);
    uint16_t* to = reinterpret_cast<uint16_t*>(out) + step * kSplitPanel + row * 2 * kBlock;
    for (int64_t product = 0; product < kProducts; product++) {
      for (int64_t part = 0; part < kBlock; part += kLanes) {
        const int64_t at = product * kBlock + part;
        store_split_of_b(split(hn::Load(d, early + at)), split(hn::Load(d, late + at)),
                         to + product * plane + 2 * part);
      }
    }
  }
}

// Panels of the register tile are `kColumns` wide; the last may have half of it.
int64_t PanelWidth(int64_t out_padded, int64_t column) {
  return std::min(kColumns, out_padded - column / kColumns * kColumns);
}

// Filters [column, column + 16) into `weights` [product][group][panel][depth][width].
void TransformFilters(const WinogradShape& s, const float* filters, int64_t column,
                      float* weights) {
  if (s.split) {
    float* out = weights + s.split_floats(column / 32 * 32 * s.depth()) +
                 column % 32 / kBlock * (kSplitPanel / 12);
    if (s.tiles == Tiles::kF43) return split_filters<F43>(s, filters, 0, 0, out);
    if (s.tiles == Tiles::kF63) return split_filters<F63>(s, filters, 0, 0, out);
    for (int64_t g = 0; g < s.groups(); g++)
      split_filters<F52>(s, filters, g / 2, g % 2, out + g * s.group_floats());
    return;
  }
  const int64_t width = PanelWidth(s.out_padded, column);
  const int64_t panel = column / kColumns * kColumns;
  const bool stream = s.weights_are_large();
  const int64_t at = panel * s.depth() + (column - panel);
  if (s.tiles == Tiles::kF43) {
    transform_filters<F43>(s, filters, 0, 0, width, stream, weights + at);
  } else if (s.tiles == Tiles::kF63) {
    transform_filters<F63>(s, filters, 0, 0, width, stream, weights + at);
  } else if (s.in_phases == 1) {
    for (int64_t g = 0; g < 4; g++) {
      transform_filters<F52>(s, filters, g / 2, g % 2, width, stream,
                             weights + at + g * s.group_floats());
    }
  } else {
    // In the order that depth_of tells.
    const int64_t phases[4][2] = {{1, 0}, {0, 0}, {0, 1}, {1, 1}};
    for (int64_t i = 0; i < 4; i++) {
      transform_filters<F52>(s, filters, phases[i][0], phases[i][1], width, stream,
                             weights + at + i * s.in_padded * width);
    }
  }
  if (stream) hwy::FlushStream();
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace calotype::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace calotype::cpu {

CALOTYPE_EXPORT(TransformFilters);

void winograd_prepare(const Simd& simd, const ConvNode& node, const WinogradShape& s,
                      Workspace& work, float* weights, const ThreadPool::Tick& tick) {
  const Conv2d& conv = node.conv;
  const auto transform = CALOTYPE_DISPATCH(TransformFilters, simd);
  ThreadPool::shared().parallel_for(
      work.threads, s.out_padded / kBlock,
      [&](int64_t block, int slot) {
        // Sixteen filters in the checkpoint's dtype become float32 in the thread's scratch.
        float* filters = work.slot(slot, s.slot_floats());
        const int64_t filter = conv.in * 9, first = block * kBlock;
        const int64_t count = std::min(kBlock, conv.out - first);
        copy_elements(conv.weight, first * filter, {filters, static_cast<size_t>(count * filter)});
        std::fill_n(filters + count * filter, (kBlock - count) * filter, 0.0f);
        transform(s, filters, first, weights);
      },
      tick);
}

}  // namespace calotype::cpu
#endif  // HWY_ONCE
