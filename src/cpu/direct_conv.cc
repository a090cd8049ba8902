#include "cpu/direct_conv.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/direct_conv.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.
#include "cpu/gemm-inl.h"
#include "cpu/split-inl.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"

#ifndef CALOTYPE_CPU_DIRECT_CONV_ONCE
#define CALOTYPE_CPU_DIRECT_CONV_ONCE
#include <optional>

namespace calotype::cpu {

// A block of kDirectBandRows x kBlockColumns pixels of y and all channels: 192 pixels give the
// register tile enough rows for each panel of weights, and their patch of x, (4 + 2) x (48 + 2)
// pixels, stays in L2 up to 256 channels.
constexpr int64_t kBlockColumns = 48;

// Of the widest panel of any target.
constexpr int64_t kDirectMostBlocks = 2;

struct DirectShape {
  DirectShape(const Simd& simd, const ConvNode& node, Extent y)
      : kernel(node.conv.kernel),
        stride(node.sampling == Sampling::kDownsample ? 2 : 1),
        in(node.conv.in),
        blocks(divide_up(node.conv.out, kBlock)),
        pointwise(kernel == 1 && stride == 1 && !node.norm),
        split(direct_takes_amx(simd, node) ? simd.amx : std::nullopt),
        columns(divide_up(y.w, kBlockColumns)),
        patch_width((std::min(kBlockColumns, y.w) - 1) * stride + kernel),
        patch_rows((kDirectBandRows - 1) * stride + kernel),
        out_columns(std::min(kBlockColumns, y.w)) {}
  int64_t kernel, stride, in, blocks;  // of 16 output channels
  bool pointwise;                      // x serves as its own patch
  std::optional<AmxUnit> split;        // by tiles of AMX, of three bf16 for each float32
  int64_t columns, patch_width, patch_rows, out_columns;

  int64_t block_floats() const {
    const int64_t floats = kernel * kernel * in * kBlock;
    return split ? floats * 3 / 2 : floats;
  }
  int64_t rows() const { return round_up(kDirectBandRows * out_columns, split ? kBlock : 1); }
  int64_t patch_floats() const {
    if (split) return rows() * in * 3 / 2;
    return pointwise ? 0 : round_up(patch_rows * patch_width * in, kBlock);
  }
  // Filters lie a cache line further apart than they are long: 32 of 512 channels would share two
  // sets of the cache.
  int64_t filter_stride() const { return round_up(in * kernel * kernel, kBlock) + kBlock; }
  int64_t result_floats() const { return rows() * kBlock; }  // of 16 channels
  // A patch and a panel's results.
  int64_t slot_floats() const {
    const int64_t of_weights = kDirectMostBlocks * kBlock * filter_stride();  // as they come
    return std::max(patch_floats() + kDirectMostBlocks * result_floats(), of_weights);
  }
};

struct DirectBlock {
  int64_t picture, row, rows, column, columns;
  bool stream;  // y goes past the caches
};

}  // namespace calotype::cpu
#endif  // CALOTYPE_CPU_DIRECT_CONV_ONCE

HWY_BEFORE_NAMESPACE();
namespace calotype::cpu {
namespace HWY_NAMESPACE {

// The pixels of x that the block needs, read through the norm; zeros outside the picture.
template <Reading kReading>
void fill_patch(const ConvProblem& p, const DirectShape& s, const DirectBlock& b, float* patch) {
  const NormPointers norm = {p.norm.mean(b.picture), p.norm.scale(b.picture),
                             p.norm.shift(b.picture)};
  const int64_t up = p.upsampling();
  const int64_t top = b.row * s.stride - p.padding(), left = b.column * s.stride - p.padding();
  const int64_t height = (b.rows - 1) * s.stride + s.kernel;
  const int64_t width = (b.columns - 1) * s.stride + s.kernel;
  for (int64_t r = 0; r < height; r++) {
    float* out = patch + r * s.patch_width * s.in;
    const int64_t y = top + r;
    if (y < 0 || y >= p.x.h * up) {
      std::fill_n(out, width * s.in, 0.0f);
      continue;
    }
    const float* row = p.x_row(b.picture, y / up);
    const int64_t first = std::clamp<int64_t>(-left, 0, width);
    const int64_t end = std::clamp<int64_t>(p.x.w * up - left, first, width);
    std::fill_n(out, first * s.in, 0.0f);
    if (kReading == Reading::kPlain && up == 1) {
      std::copy(row + (left + first) * s.in, row + (left + end) * s.in, out + first * s.in);
    } else {
      for (int64_t c = first; c < end; c++)
        read_pixel<kReading>(row + (left + c) / up * s.in, s.in, norm, out + c * s.in);
    }
    std::fill_n(out + end * s.in, (width - end) * s.in, 0.0f);
  }
}

// A panel's output channels, 16 * kBlocks, into `out` [block of 16][rows][out_columns][16].
// Meanwhile lines [0, ahead) of each row of pixels after the block are asked for, where x is its
// own patch: memory is idle during the products, and the first panel of the next block would wait
// for all of it.
template <int kBlocks>
void convolve_panel(const ConvProblem& p, const DirectShape& s, const DirectBlock& b,
                    const float* patch, const float* weights, int64_t first_ahead, int64_t ahead,
                    float* out) {
  static_assert(kBlocks <= kDirectMostBlocks);
  const int64_t steps = divide_up(b.columns, kRows) * (s.in / kBlock);
  // All rows of taps at once where a panel's weights stay in L1 beside the pixels.
  const bool at_once = s.kernel * s.kernel * s.in * kBlocks * kBlock * 4 <= (int64_t{24} << 10);
  for (int64_t r = 0; r < b.rows; r++) {
    Product row;
    row.row_stride = s.stride * s.in;
    row.k = s.kernel * s.in;  // taps of a row and their channels lie side by side
    row.c = out + r * s.out_columns * kBlock;
    row.c_stride = kBlock;
    row.c_block_stride = s.result_floats();
    row.pieces = at_once ? s.kernel : 1;
    row.piece_stride = s.patch_width * s.in;
    for (int64_t ky = 0; ky < s.kernel; ky += row.pieces) {
      row.a = s.pointwise ? p.x_row(b.picture, b.row + r) + b.column * s.in
                          : patch + (r * s.stride + ky) * s.patch_width * s.in;
      row.b = weights + ky * s.kernel * s.in * kBlocks * kBlock;
      row.accumulate = ky > 0;
      if (ahead > 0 && steps > 0) {
        row.next_a.from = row.a + b.columns * s.in + first_ahead * kBlock;
        row.next_a.lines = static_cast<int>(divide_up(ahead, steps));
      }
      product<kBlocks, Layout::kStrided>(row, b.columns);
    }
  }
}

// The block's pixels as A of SplitProducts, a row each.
void split_pixels(const ConvProblem& p, const DirectShape& s, const DirectBlock& b,
                  uint16_t* patch) {
  const int64_t rows = s.rows(), part = rows * s.in;
  for (int64_t r = 0; r < b.rows; r++) {
    const float* pixel = p.x_row(b.picture, b.row + r) + b.column * s.in;
    uint16_t* out = patch + r * s.out_columns * 2 * kBlock;
    for (int64_t c = 0; c < b.columns; c++, pixel += s.in, out += 2 * kBlock) {
      for (int64_t k = 0; k < s.in; k += 2 * kBlock) {
        for (int64_t i = 0; i < kBlock; i += kLanes) {
          store_split(split(hn::LoadU(d, pixel + k + i)),
                      split(hn::LoadU(d, pixel + k + kBlock + i)), part, out + k * rows + 2 * i);
        }
      }
    }
  }
}

// A panel's 32 output channels from split pixels.
void convolve_split(AmxUnit unit, const DirectShape& s, const float* patch, const float* weights,
                    float* out) {
  SplitProduct product;
  product.rows = s.rows();
  product.a = reinterpret_cast<const uint16_t*>(patch);
  product.a_part = product.rows * s.in;
  product.a_step = product.rows * 2 * kBlock;
  product.b = reinterpret_cast<const uint16_t*>(weights);
  product.depth = s.in;
  product.c = out;
  product.c_stride = kBlock;
  product.c_block_stride = s.result_floats();
  multiply(unit, product);
}

// Adds bias and residual to 16 channels, writes y, leaves the sums.
void finish_block(const ConvProblem& p, const DirectShape& s, const DirectBlock& b,
                  const float* results, int64_t channel, const BlockSums& sums) {
  const bool residual = p.node.residual.has_value();
  const bool whole_lines = b.stream && kLanes == kBlock;  // half a line would be a transfer too
  for (int part = 0; part < kParts; part++) {
    const int64_t c = channel + part * kLanes;
    const int64_t count = p.y.c - c;
    if (count <= 0) break;
    const V bias = hn::LoadU(d, p.bias + c);
    V shift = hn::Zero(d), sum = hn::Zero(d), square = hn::Zero(d);
    for (int64_t r = 0; r < b.rows; r++) {
      float* y = p.y_row(b.picture, b.row + r) + b.column * p.y.c + c;
      const float* add =
          residual ? p.residual_row(b.picture, b.row + r) + b.column * p.y.c + c : nullptr;
      const float* in = results + r * s.out_columns * kBlock + part * kLanes;
      for (int64_t x = 0; x < b.columns; x++) {
        V v = hn::Add(hn::LoadU(d, in + x * kBlock), bias);
        if (residual) v = hn::Add(v, load_part(add + x * p.y.c, count));
        if (whole_lines) {
          hn::Stream(v, d, y + x * p.y.c);
        } else {
          store_part(v, y + x * p.y.c, count);
        }
        if (r == 0 && x == 0) shift = v;
        const V centred = hn::Sub(v, shift);
        sum = hn::Add(sum, centred);
        square = hn::MulAdd(centred, centred, square);
      }
    }
    if (sums.shift == nullptr) continue;
    hn::StoreU(shift, d, sums.shift + c);
    hn::StoreU(sum, d, sums.sum + c);
    hn::StoreU(square, d, sums.square + c);
  }
}

// Output channels of blocks [first, end), which begins with a panel.
void DirectBlockConv(const ConvProblem& p, const DirectShape& s, const DirectBlock& b,
                     int64_t first, int64_t end, float* scratch, const BlockSums& sums) {
  if (s.split) {
    split_pixels(p, s, b, reinterpret_cast<uint16_t*>(scratch));
  } else if (!p.norm.empty()) {
    fill_patch<Reading::kNormSilu>(p, s, b, scratch);
  } else if (!s.pointwise) {
    fill_patch<Reading::kPlain>(p, s, b, scratch);
  }
  float* results = scratch + s.patch_floats();
  const int64_t next = std::min(kBlockColumns, p.x.w - b.column - b.columns) * s.in / kBlock;
  const int64_t ahead = s.pointwise ? divide_up(next, divide_up(end - first, kColumnBlocks)) : 0;
  int64_t first_ahead = 0;
  const int64_t width = s.split ? kDirectMostBlocks : kColumnBlocks;
  for (int64_t block = first; block < end; block += width, first_ahead += ahead) {
    const float* weights = p.weights + block * s.block_floats();
    const int64_t count = std::min<int64_t>(width, s.blocks - block);
    if (s.split) {
      convolve_split(*s.split, s, scratch, weights, results);
    } else if (count == kColumnBlocks) {
      convolve_panel<kColumnBlocks>(p, s, b, scratch, weights, first_ahead, ahead, results);
    } else {
      convolve_panel<1>(p, s, b, scratch, weights, first_ahead, ahead, results);
    }
    for (int64_t i = 0; i < count; i++) {
      finish_block(p, s, b, results + i * s.result_floats(), (block + i) * kBlock, sums);
    }
  }
  if (b.stream) hwy::FlushStream();
}

// 32 filters [filter][in] as B of SplitProducts.
void split_filters(const DirectShape& s, const float* filters, float* out) {
  const int64_t stride = s.filter_stride();
  HWY_ALIGN float rows[2][kBlock];
  for (int64_t i = 0; i < s.in / 2; i++) {
    const int64_t channel = i / kBlock * 2 * kBlock + i % kBlock;
    for (int64_t half = 0; half < 2; half++) {
      for (int64_t j = 0; j < kBlock; j++) {
        const float* filter = filters + (half * kBlock + j) * stride + channel;
        rows[0][j] = filter[0];
        rows[1][j] = filter[kBlock];
      }
      uint16_t* to = reinterpret_cast<uint16_t*>(out) + i / kBlock * kSplitPanel +
                     half * (kSplitPanel / 6) + i % kBlock * 2 * kBlock;
      for (int64_t c = 0; c < kBlock; c += kLanes) {
        store_split_of_b(split(hn::Load(d, rows[0] + c)), split(hn::Load(d, rows[1] + c)),
                         to + 2 * c);
      }
    }
  }
}

// Filters of a panel [filter][in][tap] as [tap][in][16 * width].
void PackDirect(const DirectShape& s, const float* filters, int64_t blocks, float* out) {
  if (s.split) return split_filters(s, filters, out);
  const int64_t taps = s.kernel * s.kernel, stride = s.filter_stride(), width = blocks * kBlock;
  for (int64_t i = 0; i < s.in; i++) {
    for (int64_t j = 0; j < width; j++) {
      for (int64_t t = 0; t < taps; t++)
        out[(t * s.in + i) * width + j] = filters[j * stride + i * taps + t];
    }
  }
}

int64_t DirectPanelBlocks() { return kColumnBlocks; }

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace calotype::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace calotype::cpu {

CALOTYPE_EXPORT(DirectBlockConv);
CALOTYPE_EXPORT(PackDirect);
CALOTYPE_EXPORT(DirectPanelBlocks);

// Shortcuts: below 128 channels to split pixels costs what their products save.
bool direct_takes_amx(const Simd& simd, const ConvNode& node) {
  const Conv2d& conv = node.conv;
  const bool pointwise = conv.kernel == 1 && node.sampling == Sampling::kSame && !node.norm;
  return simd.amx && pointwise && conv.in >= 128 && conv.in % 32 == 0 && conv.out % 32 == 0;
}

int64_t direct_weight_floats(const Simd& simd, const ConvNode& node, Extent y) {
  const DirectShape s(simd, node, y);
  return s.blocks * s.block_floats();
}

// Panels as wide as the target's register tile; the last may be 16 wide. Missing filters are zeros.
void direct_prepare(const Simd& simd, const ConvNode& node, Extent y, Workspace& work,
                    float* weights, const ThreadPool::Tick& tick) {
  const Conv2d& conv = node.conv;
  const DirectShape s(simd, node, y);
  const int64_t filter = conv.in * conv.kernel * conv.kernel;
  const int64_t width = s.split ? kDirectMostBlocks : CALOTYPE_DISPATCH(DirectPanelBlocks, simd)();
  const auto pack = CALOTYPE_DISPATCH(PackDirect, simd);
  ThreadPool::shared().parallel_for(
      work.threads, divide_up(s.blocks, width),
      [&](int64_t panel, int slot) {
        const int64_t blocks = std::min(width, s.blocks - panel * width);
        const int64_t first = panel * width * kBlock;
        float* filters = work.slot(slot, blocks * kBlock * s.filter_stride());
        for (int64_t j = 0; j < blocks * kBlock; j++) {
          float* to = filters + j * s.filter_stride();
          if (first + j < conv.out) {
            copy_elements(conv.weight, (first + j) * filter, {to, static_cast<size_t>(filter)});
          } else {
            std::fill_n(to, filter, 0.0f);
          }
        }
        pack(s, filters, blocks, weights + panel * width * s.block_floats());
      },
      tick);
}

WorkspaceBytes direct_workspace(const Simd& simd, const ConvNode& node, Extent y, int64_t batch,
                                int threads) {
  const DirectShape s(simd, node, y);
  const int64_t units = batch * divide_up(y.h, kDirectBandRows) * s.columns;
  return workspace_bytes(threads, s.slot_floats(), units, y.c);
}

void direct_conv(const Simd& simd, const ConvProblem& p, Workspace& work, Stages& stages) {
  const DirectShape s(simd, p.node, p.y);
  ThreadPool& pool = ThreadPool::shared();
  const int64_t first_band = p.call.y.first_row / kDirectBandRows;
  const int64_t bands = divide_up(p.call.y.rows, kDirectBandRows);
  const int64_t units = p.call.batch * bands * s.columns;
  // Enough jobs for all threads where the picture is small; results do not depend on it.
  const int64_t splits = std::clamp<int64_t>(divide_up(int64_t{4} * work.threads, units), 1,
                                             divide_up(s.blocks, kDirectMostBlocks));
  BandStats* stats = p.call.y_stats;
  if (stats != nullptr) work.sums.reset(units, p.y.c);
  const bool stream = goes_past_caches(simd, p);
  const auto block_conv = CALOTYPE_DISPATCH(DirectBlockConv, simd);
  const auto block_of = [&](int64_t unit) {
    const int64_t band = unit / s.columns % bands;
    DirectBlock b;
    b.picture = unit / s.columns / bands;
    b.row = (first_band + band) * kDirectBandRows;
    b.rows = std::min(kDirectBandRows, p.y.h - b.row);
    b.column = unit % s.columns * kBlockColumns;
    b.columns = std::min(kBlockColumns, p.y.w - b.column);
    b.stream = stream;
    return b;
  };
  const auto channels_at = [&](int64_t part) {
    return std::min(round_up(s.blocks * part / splits, kDirectMostBlocks), s.blocks);
  };
  // A thread takes a whole band where there are enough of them: what it asks for is its own.
  const int64_t together = units / s.columns >= int64_t{8} * work.threads ? s.columns : 1;
  pool.parallel_for(
      work.threads, units / together * splits,
      [&](int64_t job, int slot) {
        const int64_t first = job / splits * together, split = job % splits;
        std::optional<AmxJob> tiles;
        if (s.split) tiles.emplace(*s.split);
        for (int64_t unit = first; unit < first + together; unit++) {
          const DirectBlock b = block_of(unit);
          BlockSums sums = {};
          if (stats != nullptr) {
            sums = work.sums.at(unit);
            if (split == 0) work.sums.set_count(unit, b.rows * b.columns);
          }
          block_conv(p, s, b, channels_at(split), channels_at(split + 1),
                     work.slot(slot, s.slot_floats()), sums);
        }
      },
      stages.next(1, units / together * splits));
  if (stats != nullptr) merge_sums(work.sums, p.y.c, s.columns, first_band, bands, *stats);
}

}  // namespace calotype::cpu
#endif  // HWY_ONCE
