#include "cpu/bf16.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/bf16.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.
#include "cpu/vector-inl.h"
#include "hwy/highway.h"

#ifndef CALOTYPE_CPU_BF16_ONCE
#define CALOTYPE_CPU_BF16_ONCE
namespace calotype::cpu {

// A block of 4 x 64 pixels of x's grid: 64 pixels are two pairs of tiles, and a patch of 6 x 66
// pixels of 512 channels in bf16 is 400 kB.
constexpr int64_t kBf16Rows = 4;
constexpr int64_t kBf16Columns = 64;
constexpr int64_t kBf16Panel = 32;   // output channels of a product
constexpr int64_t kBf16Depth = 512;  // 32 kB of weights, in an L1 of 48

inline uint16_t to_bf16(float value) {  // to nearest even
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);  // NaN
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

struct Bf16Shape {
  explicit Bf16Shape(const ConvNode& node)
      : up(node.sampling == Sampling::kUpsample),
        down(node.sampling == Sampling::kDownsample),
        kernel(node.conv.kernel),
        taps(up ? 2 : kernel),
        groups(up ? 4 : 1),
        stride(down ? 2 : 1),
        step(up ? 2 : 1),
        before(down ? 0 : kernel / 2),
        in(round_up(node.conv.in, 32)),
        panels(divide_up(node.conv.out, kBf16Panel)),
        patch_rows((kBf16Rows - 1) * stride + kernel),
        patch_columns((kBf16Columns - 1) * stride + kernel) {}
  bool up, down;
  int64_t kernel, taps;  // upsampling: 2 of a phase
  int64_t groups;        // phases of y's pixels
  int64_t stride, step;  // of x's pixels, and of y's that a group makes
  int64_t before;        // pixels of padding
  int64_t in, panels;    // channels, padded
  int64_t patch_rows, patch_columns;

  int64_t panel_size() const { return taps * taps * in * kBf16Panel; }  // bf16
  int64_t weight_size() const { return groups * panels * panel_size(); }
  // In floats: a patch in bf16 and results.
  int64_t patch_floats() const { return round_up(patch_rows * patch_columns * in / 2, kBlock); }
  int64_t slot_floats() const { return patch_floats() + kBf16Rows * kBf16Columns * kBf16Panel; }
};

struct Bf16Block {
  int64_t picture, row, rows, column, columns;  // of the grid that a group makes
  int64_t first, end;                           // panels
};

}  // namespace calotype::cpu
#endif  // CALOTYPE_CPU_BF16_ONCE

HWY_BEFORE_NAMESPACE();
namespace calotype::cpu {
namespace HWY_NAMESPACE {

// The nearest bf16, to even. NaN stays NaN: rounding up could carry past the largest.
HWY_INLINE void store_bf16(V v, uint16_t* to) {
  const hn::RebindToUnsigned<D> du;
  const auto bits = hn::BitCast(du, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7fffu)));
  const auto kept = hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(v)),
                                   hn::Or(bits, hn::Set(du, 0x400000u)), rounded);
  const hn::Rebind<uint16_t, D> half;
  hn::StoreU(hn::TruncateTo(half, hn::ShiftRight<16>(kept)), half, to);
}

// One pixel's channels and zeros up to `padded`, a multiple of the lanes.
template <Reading kReading>
HWY_INLINE void read_bf16_pixel(const float* HWY_RESTRICT x, int64_t channels, int64_t padded,
                                const NormPointers& norm, uint16_t* HWY_RESTRICT out) {
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) {
    store_bf16(read<kReading>(hn::LoadU(d, x + c), norm, c), out + c);
  }
  if (c < channels) {
    const V v = read<kReading>(load_part(x + c, channels - c), norm, c);
    HWY_ALIGN float lanes[16] = {};
    store_part(v, lanes, channels - c);
    store_bf16(hn::Load(d, lanes), out + c);
    c += kLanes;
  }
  std::fill(out + c, out + padded, uint16_t{0});
}

template <Reading kReading>
void fill_bf16_patch(const ConvProblem& p, const Bf16Shape& s, const Bf16Block& b,
                     uint16_t* patch) {
  const NormPointers norm = {p.norm.mean(b.picture), p.norm.scale(b.picture),
                             p.norm.shift(b.picture)};
  for (int64_t r = 0; r < s.patch_rows; r++) {
    const int64_t y = b.row * s.stride - s.before + r;
    for (int64_t c = 0; c < s.patch_columns; c++, patch += s.in) {
      const int64_t x = b.column * s.stride - s.before + c;
      if (y < p.call.x.first_row || y >= p.call.x.first_row + p.call.x.rows || x < 0 ||
          x >= p.x.w) {
        std::fill_n(patch, s.in, uint16_t{0});
        continue;
      }
      read_bf16_pixel<kReading>(p.x_row(b.picture, y) + x * p.x.c, p.x.c, s.in, norm, patch);
    }
  }
}

// Adds bias and residual to a panel's results and writes them.
void finish_bf16_panel(const ConvProblem& p, const Bf16Shape& s, const Bf16Block& b, int64_t group,
                       const float* results, int64_t channel, bool first, const BlockSums& sums) {
  const int64_t count = std::min(kBf16Panel, p.y.c - channel);
  const int64_t top = group / 2, left = group % 2;
  for (int64_t c = 0; c < count; c += kLanes) {
    const int64_t at = channel + c, lanes = p.y.c - at;
    const V bias = load_part(p.bias + at, lanes);
    V shift = hn::Zero(d), sum = hn::Zero(d), square = hn::Zero(d);
    if (sums.shift != nullptr && !first) {
      shift = hn::LoadU(d, sums.shift + at);
      sum = hn::LoadU(d, sums.sum + at);
      square = hn::LoadU(d, sums.square + at);
    }
    for (int64_t r = 0; r < b.rows; r++) {
      const int64_t row = (b.row + r) * s.step + top;
      float* y = p.y_row(b.picture, row) + at;
      const float* add = p.node.residual ? p.residual_row(b.picture, row) + at : nullptr;
      for (int64_t x = 0; x < b.columns; x++) {
        const int64_t pixel = ((b.column + x) * s.step + left) * p.y.c;
        V v = hn::Add(hn::LoadU(d, results + (r * kBf16Columns + x) * kBf16Panel + c), bias);
        if (add != nullptr) v = hn::Add(v, load_part(add + pixel, lanes));
        store_part(v, y + pixel, lanes);
        if (first && r == 0 && x == 0) shift = v;
        const V centred = hn::Sub(v, shift);
        sum = hn::Add(sum, centred);
        square = hn::MulAdd(centred, centred, square);
      }
    }
    if (sums.shift == nullptr) continue;
    hn::StoreU(shift, d, sums.shift + at);
    hn::StoreU(sum, d, sums.sum + at);
    hn::StoreU(square, d, sums.square + at);
  }
}

void Bf16BlockConv(const ConvProblem& p, const Bf16Shape& s, const Bf16Block& b, AmxUnit unit,
                   float* scratch, const BlockSums& sums) {
  auto* patch = reinterpret_cast<uint16_t*>(scratch);
  float* results = scratch + s.patch_floats();
  if (p.norm.empty()) {
    fill_bf16_patch<Reading::kPlain>(p, s, b, patch);
  } else {
    fill_bf16_patch<Reading::kNormSilu>(p, s, b, patch);
  }
  const auto* weights = reinterpret_cast<const uint16_t*>(p.weights);
  Bf16Product product;
  product.row_stride = s.stride * s.in;
  product.rows = round_up(b.columns, 32);
  for (int64_t group = 0; group < s.groups; group++) {
    for (int64_t panel = b.first; panel < b.end; panel++) {
      std::fill_n(results, kBf16Rows * kBf16Columns * kBf16Panel, 0.0f);
      const uint16_t* of_panel = weights + (group * s.panels + panel) * s.panel_size();
      for (int64_t tap = 0; tap < s.taps; tap++) {
        // A row of taps is side by side in memory; it is cut so that its weights stay in L1.
        for (int64_t k = 0; k < s.taps * s.in; k += kBf16Depth) {
          product.depth = std::min(kBf16Depth, s.taps * s.in - k);
          product.b = of_panel + (tap * s.taps * s.in + k) * kBf16Panel;
          for (int64_t r = 0; r < b.rows; r++) {
            product.c = results + r * kBf16Columns * kBf16Panel;
            product.a =
                patch + ((r * s.stride + tap + group / 2) * s.patch_columns + group % 2) * s.in + k;
            multiply(unit, product);
          }
        }
      }
      finish_bf16_panel(p, s, b, group, results, panel * kBf16Panel, group == 0, sums);
    }
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace calotype::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace calotype::cpu {

CALOTYPE_EXPORT(Bf16BlockConv);

namespace {

// Weight of tap (row, column) of a group's filter, `taps` a side, from the 3x3 (or 1x1) filter:
// upsampling, tap 0 of phase 0 and tap 1 of phase 1 stand for one of the three, the others for two.
float group_weight(const Bf16Shape& s, int64_t group, int64_t row, int64_t column,
                   const float* filter) {
  if (!s.up) return filter[row * s.kernel + column];
  const auto range = [](int64_t phase, int64_t tap) {  // of the three
    return phase == 0 ? (tap == 0 ? std::pair(0, 1) : std::pair(1, 3))
                      : (tap == 0 ? std::pair(0, 2) : std::pair(2, 3));
  };
  const auto [top, bottom] = range(group / 2, row);
  const auto [left, right] = range(group % 2, column);
  float sum = 0;
  for (int y = top; y < bottom; y++) {
    for (int x = left; x < right; x++) sum += filter[y * 3 + x];
  }
  return sum;
}

}  // namespace

bool bf16_takes(const ConvNode& node) {
  // Fewer channels would mostly be padding; upsampling folds 3x3 filters.
  return node.conv.in >= 16 && node.conv.out >= 16 &&
         (node.conv.kernel == 3 || node.sampling == Sampling::kSame);
}

int64_t bf16_band_rows(const ConvNode& node) { return kBf16Rows * Bf16Shape(node).step; }

int64_t bf16_weight_floats(const ConvNode& node) { return Bf16Shape(node).weight_size() / 2; }

// [group][panel][tap row][tap column, channel / 32][half][channel % 32 / 2][column][channel % 2]
void bf16_prepare(const ConvNode& node, Workspace& work, float* memory,
                  const ThreadPool::Tick& tick) {
  const Bf16Shape s(node);
  const Conv2d& conv = node.conv;
  const int64_t filter = conv.in * conv.kernel * conv.kernel;
  auto* weights = reinterpret_cast<uint16_t*>(memory);
  const auto pack = [&](int64_t panel, int slot) {
    float* filters = work.slot(slot, filter);
    for (int64_t j = 0; j < kBf16Panel; j++) {
      const int64_t o = panel * kBf16Panel + j;
      const bool real = o < conv.out;
      if (real) copy_elements(conv.weight, o * filter, {filters, static_cast<size_t>(filter)});
      for (int64_t i = 0; i < s.groups * s.taps * s.taps * s.in; i++) {
        const int64_t channel = i % s.in, column = i / s.in % s.taps;
        const int64_t row = i / s.in / s.taps % s.taps, group = i / s.in / s.taps / s.taps;
        const float value =
            real && channel < conv.in
                ? group_weight(s, group, row, column, filters + channel * conv.kernel * conv.kernel)
                : 0.0f;
        const int64_t depth = column * s.in + channel;
        weights[(group * s.panels + panel) * s.panel_size() + row * s.taps * s.in * kBf16Panel +
                (depth / 32 * 2 + j / 16) * 512 + (depth % 32 / 2 * 16 + j % 16) * 2 + depth % 2] =
            to_bf16(value);
      }
    }
  };
  ThreadPool::shared().parallel_for(work.threads, s.panels, pack, tick);
}

double bf16_flop(const ConvNode& node, Extent y) {
  const Bf16Shape s(node);
  return 2.0 * static_cast<double>(s.taps * s.taps * s.in * s.panels * kBf16Panel) *
         static_cast<double>(y.h * y.w);
}

WorkspaceBytes bf16_workspace(const ConvNode& node, Extent y, int64_t batch, int threads) {
  const Bf16Shape s(node);
  const int64_t units =
      batch * divide_up(y.h, bf16_band_rows(node)) * divide_up(y.w / s.step, kBf16Columns);
  const int64_t filter = node.conv.in * node.conv.kernel * node.conv.kernel;
  return workspace_bytes(threads, std::max(s.slot_floats(), filter), units, y.c);
}

void bf16_conv(const Simd& simd, AmxUnit unit, const ConvProblem& p, Workspace& work,
               Stages& stages) {
  const Bf16Shape s(p.node);
  const int64_t band_rows = bf16_band_rows(p.node);
  const int64_t first_band = p.call.y.first_row / band_rows;
  const int64_t bands = divide_up(p.call.y.rows, band_rows);
  const int64_t height = p.y.h / s.step, width = p.y.w / s.step;  // of the grid of a group
  const int64_t columns = divide_up(width, kBf16Columns);
  const int64_t units = p.call.batch * bands * columns;
  const int64_t splits = std::clamp<int64_t>(int64_t{8} * work.threads / units, 1, s.panels);
  BandStats* stats = p.call.y_stats;
  if (stats != nullptr) work.sums.reset(units, p.y.c);
  const auto block_conv = CALOTYPE_DISPATCH(Bf16BlockConv, simd);
  ThreadPool::shared().parallel_for(
      work.threads, units * splits,
      [&](int64_t job, int slot) {
        const int64_t unit_index = job / splits, split = job % splits;
        Bf16Block b;
        b.picture = unit_index / columns / bands;
        b.row = (first_band + unit_index / columns % bands) * kBf16Rows;
        b.rows = std::min(kBf16Rows, height - b.row);
        b.column = unit_index % columns * kBf16Columns;
        b.columns = std::min(kBf16Columns, width - b.column);
        b.first = s.panels * split / splits;
        b.end = s.panels * (split + 1) / splits;
        BlockSums sums = {};
        if (stats != nullptr) {
          sums = work.sums.at(unit_index);
          if (split == 0) work.sums.set_count(unit_index, b.rows * b.columns * s.groups);
        }
        const AmxJob tiles(unit);
        block_conv(p, s, b, unit, work.slot(slot, s.slot_floats()), sums);
      },
      stages.next(1, units * splits));
  if (stats != nullptr) merge_sums(work.sums, p.y.c, columns, first_band, bands, *stats);
}

}  // namespace calotype::cpu
#endif  // HWY_ONCE
