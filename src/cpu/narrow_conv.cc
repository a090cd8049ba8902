#include "cpu/narrow_conv.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/narrow_conv.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.
#include "cpu/gemm-inl.h"
#include "hwy/highway.h"

#ifndef CALOTYPE_CPU_NARROW_CONV_ONCE
#define CALOTYPE_CPU_NARROW_CONV_ONCE
namespace calotype::cpu {

// Pixels of a block's row: with the two beside it 128, whose 128 channels are 64 KiB, and of which
// the halo is 2 %. A block of 32 rows computes 34: another 6 %.
constexpr int64_t kNarrowColumns = 126;

struct NarrowShape {
  NarrowShape(const Conv2d& conv, int64_t width)
      : in(conv.in),
        out(conv.out),
        products(round_up(9 * out, kBlock)),
        columns(std::min(kNarrowColumns, width)),
        blocks(divide_up(width, kNarrowColumns)) {}
  int64_t in, out;
  int64_t products;  // columns of the product
  int64_t columns, blocks;

  int64_t pixels_floats() const { return round_up((columns + 2) * in, kBlock); }
  int64_t row_floats() const { return (columns + 2) * products + kBlock; }  // of results
  // One row of pixels, and three rows of results.
  int64_t slot_floats() const { return pixels_floats() + 3 * row_floats() + kBlock; }
  int64_t weight_floats() const { return in * products; }
};

struct NarrowBlock {
  int64_t picture, row, rows, column, columns;
};

}  // namespace calotype::cpu
#endif  // CALOTYPE_CPU_NARROW_CONV_ONCE

HWY_BEFORE_NAMESPACE();
namespace calotype::cpu {
namespace HWY_NAMESPACE {

// Pixels are gathered in vectors of at most four output channels.
using Few = hn::CappedTag<float, 4>;

template <Reading kReading>
void read_row(const ConvProblem& p, const NarrowShape& s, const NarrowBlock& b, int64_t row,
              float* out) {
  const NormPointers norm = {p.norm.mean(b.picture), p.norm.scale(b.picture),
                             p.norm.shift(b.picture)};
  const float* x = p.x_row(b.picture, row);
  const int64_t ahead = row < b.row + b.rows && row + 1 < p.x.h ? p.x.w * s.in : 0;
  for (int64_t c = b.column - 1; c <= b.column + b.columns; c++, out += s.in) {
    if (c < 0 || c >= p.x.w) {
      std::fill_n(out, s.in, 0.0f);
    } else {
      for (int64_t i = 0; i < s.in && ahead != 0; i += kBlock)
        __builtin_prefetch(x + c * s.in + ahead + i, 0, 2);
      read_pixel<kReading>(x + c * s.in, s.in, norm, out);
    }
  }
}

// Results of a row of x, with the pixel before and the pixel after it; zeros outside the picture.
void multiply_row(const ConvProblem& p, const NarrowShape& s, const NarrowBlock& b, int64_t row,
                  float* pixels, float* results) {
  if (row < 0 || row >= p.x.h) {
    std::fill_n(results, s.row_floats(), 0.0f);
    return;
  }
  if (p.norm.empty()) {
    read_row<Reading::kPlain>(p, s, b, row, pixels);
  } else {
    read_row<Reading::kNormSilu>(p, s, b, row, pixels);
  }
  Product product_of_panel;
  product_of_panel.a = pixels;
  product_of_panel.row_stride = s.in;
  product_of_panel.k = s.in;
  product_of_panel.c_stride = s.products;
  product_of_panel.c_block_stride = kBlock;
  for (int64_t n = 0; n < s.products; n += kColumns) {
    product_of_panel.b = p.weights + n * s.in;
    product_of_panel.c = results + n;
    if (s.products - n >= kColumns) {
      product<kColumnBlocks, Layout::kStrided>(product_of_panel, b.columns + 2);
    } else {
      product<1, Layout::kStrided>(product_of_panel, b.columns + 2);
    }
  }
}

// One row of y from three rows of results.
void gather_row(const NarrowShape& s, int64_t columns, const float* const (&results)[3],
                const float* bias, float* y) {
  const Few few;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(few));
  for (int64_t c = 0; c < columns; c++, y += s.out) {
    for (int64_t o = 0; o < s.out; o += lanes) {
      hn::Vec<Few> sum = hn::LoadU(few, bias + o);
      for (int64_t ky = 0; ky < 3; ky++) {
        for (int64_t kx = 0; kx < 3; kx++) {
          sum = hn::Add(
              sum, hn::LoadU(few, results[ky] + (c + kx) * s.products + (ky * 3 + kx) * s.out + o));
        }
      }
      // Lanes beyond the pixel's channels fall on pixels that are written later, or on none.
      if (c * s.out + o + lanes <= columns * s.out) {
        hn::StoreU(sum, few, y + o);
      } else {
        HWY_ALIGN float last[4];
        hn::Store(sum, few, last);
        const int64_t left = std::min(lanes, columns * s.out - (c * s.out + o));
        std::memcpy(y + o, last, static_cast<size_t>(left) * sizeof(float));
      }
    }
  }
}

void NarrowBlockConv(const ConvProblem& p, const NarrowShape& s, const NarrowBlock& b,
                     float* scratch) {
  float* pixels = scratch;
  float* rows[3];
  for (int64_t i = 0; i < 3; i++) rows[i] = scratch + s.pixels_floats() + i * s.row_floats();
  for (int64_t r = -1; r <= b.rows; r++) {
    multiply_row(p, s, b, b.row + r, pixels, rows[(r + 1) % 3]);
    if (r < 1) continue;
    const float* const results[3] = {rows[(r - 1) % 3], rows[r % 3], rows[(r + 1) % 3]};
    gather_row(s, b.columns, results, p.bias, p.y_row(b.picture, b.row + r - 1) + b.column * p.y.c);
  }
}

// The filters as the product's B: [panel][in][width], column (tap, o) at tap * out + o.
void PackNarrow(const NarrowShape& s, const float* filters, float* weights) {
  std::fill_n(weights, s.weight_floats(), 0.0f);
  for (int64_t o = 0; o < s.out; o++) {
    for (int64_t i = 0; i < s.in; i++) {
      for (int64_t tap = 0; tap < 9; tap++) {
        const int64_t n = tap * s.out + o, panel = n / kColumns * kColumns;
        const int64_t width = std::min(kColumns, s.products - panel);
        weights[panel * s.in + i * width + n - panel] = filters[(o * s.in + i) * 9 + tap];
      }
    }
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace calotype::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace calotype::cpu {

CALOTYPE_EXPORT(NarrowBlockConv);
CALOTYPE_EXPORT(PackNarrow);

namespace {

void sum_block(const ConvProblem& p, const NarrowBlock& b, const BlockSums& sums) {
  const float* first = p.y_row(b.picture, b.row) + b.column * p.y.c;
  for (int64_t c = 0; c < p.y.c; c++) {
    sums.shift[c] = first[c];
    sums.sum[c] = sums.square[c] = 0;
  }
  for (int64_t r = 0; r < b.rows; r++) {
    const float* y = p.y_row(b.picture, b.row + r) + b.column * p.y.c;
    for (int64_t i = 0; i < b.columns; i++, y += p.y.c) {
      for (int64_t c = 0; c < p.y.c; c++) {
        const float centred = y[c] - sums.shift[c];
        sums.sum[c] += centred;
        sums.square[c] += centred * centred;
      }
    }
  }
}

}  // namespace

bool narrow_takes(const ConvNode& node) {
  return node.conv.kernel == 3 && node.sampling == Sampling::kSame && !node.residual &&
         node.conv.out <= 7 && node.conv.in >= 16;
}

double narrow_flop(const ConvNode& node, Extent y) {
  const NarrowShape s(node.conv, y.w);
  const double halo = 1 + 2.0 / kNarrowBandRows;
  return 2 * halo * static_cast<double>(y.h * (y.w + 2 * s.blocks) * s.weight_floats());
}

int64_t narrow_weight_floats(const ConvNode& node) {
  return NarrowShape(node.conv, 1).weight_floats();
}

void narrow_prepare(const Simd& simd, const ConvNode& node, float* weights) {
  std::vector<float> filters(static_cast<size_t>(node.conv.weight.size()));
  copy_elements(node.conv.weight, 0, std::span<float>(filters));
  CALOTYPE_DISPATCH(PackNarrow, simd)(NarrowShape(node.conv, 1), filters.data(), weights);
}

WorkspaceBytes narrow_workspace(const ConvNode& node, Extent y, int64_t batch, int threads) {
  const NarrowShape s(node.conv, y.w);
  const int64_t units = batch * divide_up(y.h, kNarrowBandRows) * s.blocks;
  return workspace_bytes(threads, s.slot_floats(), units, s.out);
}

void narrow_conv(const Simd& simd, const ConvProblem& p, Workspace& work, Stages& stages) {
  const NarrowShape s(p.node.conv, p.y.w);
  const int64_t first_band = p.call.y.first_row / kNarrowBandRows;
  const int64_t bands = divide_up(p.call.y.rows, kNarrowBandRows);
  const int64_t units = p.call.batch * bands * s.blocks;
  BandStats* stats = p.call.y_stats;
  if (stats != nullptr) work.sums.reset(units, p.y.c);
  const auto block_conv = CALOTYPE_DISPATCH(NarrowBlockConv, simd);
  ThreadPool::shared().parallel_for(
      work.threads, units,
      [&](int64_t unit, int slot) {
        NarrowBlock b;
        b.picture = unit / s.blocks / bands;
        b.row = (first_band + unit / s.blocks % bands) * kNarrowBandRows;
        b.rows = std::min(kNarrowBandRows, p.y.h - b.row);
        b.column = unit % s.blocks * kNarrowColumns;
        b.columns = std::min(kNarrowColumns, p.y.w - b.column);
        block_conv(p, s, b, work.slot(slot, s.slot_floats()));
        if (stats == nullptr) return;
        sum_block(p, b, work.sums.at(unit));
        work.sums.set_count(unit, b.rows * b.columns);
      },
      stages.next(1, units));
  if (stats != nullptr) merge_sums(work.sums, p.y.c, s.blocks, first_band, bands, *stats);
}

}  // namespace calotype::cpu
#endif  // HWY_ONCE
