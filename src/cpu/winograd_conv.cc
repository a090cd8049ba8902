#include "cpu/winograd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/winograd_conv.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.
#include "cpu/gemm-inl.h"
#include "cpu/split-inl.h"
#include "cpu/winograd_input-inl.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"

#ifndef CALOTYPE_CPU_WINOGRAD_CONV_ONCE
#define CALOTYPE_CPU_WINOGRAD_CONV_ONCE
#include <array>
#include <functional>
#include <span>

namespace calotype::cpu {
using Poll = std::function<void()>;  // throws to cancel
}  // namespace calotype::cpu
#endif  // CALOTYPE_CPU_WINOGRAD_CONV_ONCE

HWY_BEFORE_NAMESPACE();
namespace calotype::cpu {
namespace HWY_NAMESPACE {

// `rows` rows against the panel's columns.
HWY_INLINE void multiply_panel(const Product& product_of_panel, int64_t rows, int64_t width) {
  if (width == kColumns) {
    product<kColumnBlocks, Layout::kTilesOf16>(product_of_panel, rows);
  } else {
    product<1, Layout::kTilesOf16>(product_of_panel, rows);
  }
}

// All products of the block's tiles with output channels [first, end) of a group.
template <class S>
void multiply(const WinogradJob& job, const WinogradBlock& b, int64_t group, int64_t first,
              int64_t end, const Scratch& scratch) {
  const WinogradShape& s = job.s;
  const int64_t tiles = b.rows * b.columns;
  const int64_t plane = s.weight_plane();
  Product product_of_panel;
  const int64_t calls = divide_up(tiles, kRows), panels = divide_up(end - first, kColumns);
  product_of_panel.depth = s.depth();
  product_of_panel.c_stride = kBlock;
  product_of_panel.c_block_stride = tiles * kBlock;
  // A product's input is asked for during the one before, a part with each register tile.
  product_of_panel.next_a.lines = static_cast<int>(divide_up(tiles, calls * panels));
  for (int row = 0; row < S::kPoints; row++) {
    for (int column = 0; column < S::kPoints; column++) {
      const int64_t index = row * S::kPoints + column;
      const WinogradShape::Range range = s.depth_of(row, column);
      const float* weights = job.p.weights + index * plane + group * s.group_floats();
      product_of_panel.a = scratch.input + index * s.input_plane();
      product_of_panel.skip = range.first * kBlock;
      product_of_panel.k = (range.end - range.first) * kBlock;
      product_of_panel.next_a.from = product_of_panel.a + s.input_plane();
      for (int64_t n = first; n < end; n += kColumns) {
        const int64_t width = std::min(kColumns, s.out_padded - n);
        product_of_panel.b = weights + n * s.depth() + range.first * kBlock * width;
        product_of_panel.c = scratch.results + index * s.result_plane() + (n - first) * tiles;
        // The panel that comes next, over this one's tiles.
        product_of_panel.next_b.from = n + kColumns < end ? product_of_panel.b + width * s.depth()
                                                          : weights + plane + first * s.depth();
        product_of_panel.next_b.lines = static_cast<int>(divide_up(width, calls));
        multiply_panel(product_of_panel, tiles, width);
        product_of_panel.next_a.from += product_of_panel.next_a.lines * product_of_panel.k * calls;
      }
    }
  }
}

// One product's input, [depth / 16][row][16], as A of a SplitProduct. Only just before the product:
// what goes to it by way of L3 is smaller as float32.
class SplitInput {
 public:
  SplitInput(const float* from, int64_t rows, int64_t depth, uint16_t* a)
      : from_(from), rows_(rows), depth_(depth), a_(a) {}
  const uint16_t* a() const { return a_; }
  HWY_INLINE void next(int64_t count) {
    const int64_t end = std::min(done_ + count, rows_ * depth_ / (2 * kBlock));
    for (; done_ < end; done_++) {
      const int64_t row = done_ % rows_, step = done_ - row;
      const float* from = from_ + (2 * step + row) * kBlock;
      for (int64_t c = 0; c < kBlock; c += kLanes) {
        store_split(split(hn::LoadU(d, from + c)), split(hn::LoadU(d, from + rows_ * kBlock + c)),
                    rows_ * depth_, a_ + done_ * 2 * kBlock + 2 * c);
      }
    }
  }
  void rest() { next(rows_ * depth_); }

 private:
  const float* from_;
  int64_t rows_, depth_;
  uint16_t* a_;
  int64_t done_ = 0;  // of [depth / 32][row]
};

// What vector units do beside a product of tiles: the next product's input, the next block's patch.
template <Reading kReading>
struct Beside {
  SplitInput* input;
  Patch<kReading>* patch;
  static void some(void* work) {
    const Beside& me = *static_cast<Beside*>(work);
    if (me.input != nullptr) me.input->next(3);
    if (me.patch != nullptr && !me.patch->full()) me.patch->next_pixel();
  }
};

// All products of the block's tiles with output channels [first, end) of a group, by tiles of AMX.
// `next`: the next block's patch, or null.
template <class S, Reading kReading>
void multiply_split(const WinogradJob& job, const WinogradBlock& b, int64_t group, int64_t first,
                    int64_t end, Patch<kReading>* next, const Scratch& scratch, const Poll& poll) {
  const WinogradShape& s = job.s;
  auto* const of_amx = reinterpret_cast<uint16_t*>(scratch.of_amx);
  SplitProduct product;
  product.rows = s.rows_of(b.rows * b.columns);
  product.a_part = product.rows * s.depth();
  product.a_step = product.rows * 2 * kBlock;
  product.depth = s.depth();
  product.c_stride = kBlock;
  product.c_block_stride = product.rows * kBlock;
  constexpr int64_t kProducts = int64_t{S::kPoints} * S::kPoints;
  const auto input_of = [&](int64_t index) {
    uint16_t* const a = of_amx + (s.works_beside() ? index % 2 * 3 * product.a_part : 0);
    return SplitInput(scratch.input + index * s.input_plane(), product.rows, s.depth(), a);
  };
  SplitInput inputs[2] = {input_of(0), input_of(1)};
  Beside<kReading> beside = {nullptr, next};
  product.work = &beside;
  if (s.works_beside()) product.beside = beside.some;
  for (int64_t index = 0; index < kProducts; index++) {
    SplitInput& input = inputs[index % 2];
    input.rest();
    product.a = input.a();
    beside.input = index + 1 < kProducts ? &inputs[(index + 1) % 2] : nullptr;
    const float* weights = job.p.weights + index * s.weight_plane() + group * s.group_floats();
    for (int64_t n = first; n < end; n += 2 * kBlock) {
      product.b = reinterpret_cast<const uint16_t*>(weights + s.split_floats(n * s.depth()));
      product.c = scratch.results + index * s.result_plane() + (n - first) * product.rows;
      cpu::multiply(*job.amx, product);
    }
    if (index + 2 < kProducts) input = input_of(index + 2);
    if (poll && index % S::kPoints == 0) poll();
  }
}

// Where the pixels of a tile go, and what is added to them.
struct TileOutput {
  float* y;              // of the tile's first pixel and the first of 16 channels
  const float* add;      // the residual likewise, or null
  int64_t pitch, pixel;  // between rows and between columns of the tile's pixels
  int64_t first_row, end_row, first_column, end_column;  // of its pixels that are of the picture
  int64_t channels;                                      // of the 16
  const float* bias;
  BlockSums sums;  // at the first of the 16 channels, or null
  float* started;
};

// Transforms the results of one tile and 16 channels and writes them. kWhole: all pixels and
// channels are of the picture.
template <class S, bool kWhole, bool kStream>
HWY_INLINE void write_tile(const float* HWY_RESTRICT results, int64_t plane, const TileOutput& t) {
  constexpr int kPoints = S::kPoints, kOutputs = S::kOutputs;
  V rows[kParts][kOutputs][kPoints];  // [part][row of pixels][column point]
#pragma GCC unroll 16
  for (int part = 0; part < kParts; part++) {
#pragma GCC unroll 8
    for (int c = 0; c < kPoints; c++) {
      V in[kPoints], out[kOutputs];
#pragma GCC unroll 8
      for (int r = 0; r < kPoints; r++) {
        in[r] = hn::LoadU(d, results + (r * kPoints + c) * plane + part * kLanes);
      }
      S::output(in, out);
#pragma GCC unroll 8
      for (int r = 0; r < kOutputs; r++) rows[part][r][c] = out[r];
    }
  }
  V bias[kParts], shift[kParts], sum[kParts], square[kParts];
  bool started = t.started == nullptr || *t.started != 0;
#pragma GCC unroll 16
  for (int part = 0; part < kParts; part++) {
    bias[part] = hn::LoadU(d, t.bias + part * kLanes);
    shift[part] = sum[part] = square[part] = hn::Zero(d);
    if (t.started == nullptr || !started) continue;
    shift[part] = hn::LoadU(d, t.sums.shift + part * kLanes);
    sum[part] = hn::LoadU(d, t.sums.sum + part * kLanes);
    square[part] = hn::LoadU(d, t.sums.square + part * kLanes);
  }
  for (int r = kWhole ? 0 : static_cast<int>(t.first_row);
       r < (kWhole ? kOutputs : static_cast<int>(t.end_row)); r++) {
    V out[kParts][kOutputs];
#pragma GCC unroll 16
    for (int part = 0; part < kParts; part++) S::output(rows[part][r], out[part]);
    float* y = t.y + r * t.pitch;
    const float* add = t.add == nullptr ? nullptr : t.add + r * t.pitch;
#pragma GCC unroll 8
    for (int c = 0; c < kOutputs; c++) {
      if (!kWhole && (c < t.first_column || c >= t.end_column)) continue;
#pragma GCC unroll 16
      for (int part = 0; part < kParts; part++) {
        const int64_t count = kWhole ? kLanes : t.channels - part * kLanes;
        V v = hn::Add(out[part][c], bias[part]);
        if (add != nullptr) {
          const float* from = add + c * t.pixel + part * kLanes;
          v = hn::Add(v, kWhole ? hn::LoadU(d, from) : load_part(from, count));
        }
        float* to = y + c * t.pixel + part * kLanes;
        if constexpr (kWhole && kStream) {
          hn::Stream(v, d, to);
        } else if constexpr (kWhole) {
          hn::StoreU(v, d, to);
        } else {
          store_part(v, to, count);
        }
        if (!started) shift[part] = v;
        const V centred = hn::Sub(v, shift[part]);
        sum[part] = hn::Add(sum[part], centred);
        square[part] = hn::MulAdd(centred, centred, square[part]);
      }
      started = true;
    }
  }
  if (t.started == nullptr || !started) return;
  *t.started = 1;
#pragma GCC unroll 16
  for (int part = 0; part < kParts; part++) {
    hn::StoreU(shift[part], d, t.sums.shift + part * kLanes);
    hn::StoreU(sum[part], d, t.sums.sum + part * kLanes);
    hn::StoreU(square[part], d, t.sums.square + part * kLanes);
  }
}

// Output channels [first, end) of a row of tiles of a group.
template <class S>
void write_row(const WinogradJob& job, const WinogradBlock& b, int64_t tile_row, int64_t group,
               int64_t first, int64_t end, const Scratch& scratch, const BlockSums& sums) {
  const ConvProblem& p = job.p;
  const WinogradShape& s = job.s;
  const int64_t step = s.passes;  // upsampling: pixels of a phase are two apart
  const int64_t row = (b.row + tile_row) * S::kOutputs * step + group / s.out_phases;
  const bool residual = p.node.residual.has_value();
  TileOutput t = {};
  t.pitch = step * p.y.w * p.y.c;
  t.pixel = step * p.y.c;
  t.end_row = std::min<int64_t>(S::kOutputs, divide_up(p.y.h - row, step));
  float* y = p.y_row(b.picture, row);
  const float* residual_row = residual ? p.residual_row(b.picture, row) : nullptr;
  const int64_t block_floats = s.rows_of(b.rows * b.columns) * kBlock;  // of 16 channels
  const int64_t plane = s.result_plane();
  for (int64_t tile = 0; tile < b.columns; tile++) {
    const int64_t column = (b.column + tile) * S::kOutputs * step - group % s.out_phases;
    t.first_column = column < 0 ? 1 : 0;
    t.end_column = std::clamp<int64_t>(divide_up(p.y.w - column, step), 0, S::kOutputs);
    const bool whole_tile =
        t.end_row == S::kOutputs && t.first_column == 0 && t.end_column == S::kOutputs;
    const float* results = scratch.results + (tile_row * b.columns + tile) * kBlock;
    for (int64_t n = first; n < end; n += kBlock, results += block_floats) {
      t.y = y + column * p.y.c + n;
      if (residual) {
        t.add = residual_row + column * p.y.c + n;
        if (tile + 1 < b.columns && whole_tile) {  // of the next tile
          for (int r = 0; r < S::kOutputs; r++) {
            for (int c = 0; c < S::kOutputs; c++) {
              __builtin_prefetch(t.add + r * t.pitch + (S::kOutputs + c) * t.pixel);
            }
          }
        }
      }
      t.channels = std::min(kBlock, p.y.c - n);
      t.bias = p.bias + n;
      if (sums.shift != nullptr) {
        t.sums = {sums.shift + n, sums.sum + n, sums.square + n};
        t.started = scratch.started + n / kBlock;
      }
      if (!whole_tile || t.channels < kBlock) {
        write_tile<S, false, false>(results, plane, t);
      } else if (job.stream) {
        write_tile<S, true, true>(results, plane, t);
      } else {
        write_tile<S, true, false>(results, plane, t);
      }
    }
  }
}

// Blocks one after the other. Where vector units work beside AMX, each one's patch is read during
// the products of the one before.
template <class S, Reading kReading>
void run_blocks(const WinogradJob& job, std::span<const WinogradBlock> blocks, float* memory,
                const Poll& poll) {
  const WinogradShape& s = job.s;
  const Scratch scratch(s, memory);
  // A block may take 50 ms; where vector units work beside tiles, less than one.
  const Poll within = s.works_beside() ? Poll() : poll;
  std::optional<Patch<kReading>> patch;  // begun
  for (size_t i = 0; i < blocks.size(); i++) {
    const WinogradBlock& b = blocks[i];
    std::fill_n(scratch.started, s.started_floats(), 0.0f);
    transform_input<S, kReading>(job, b, patch ? &*patch : nullptr, scratch);
    patch.reset();
    if (i + 1 < blocks.size() && s.reads_beside()) {
      patch.emplace(patch_of<kReading>(job, blocks[i + 1], 0, 0, scratch));
    }
    if (within) within();
    for (int64_t phase = 0; phase < s.out_phases; phase++) {
      const int64_t group = b.pass * s.out_phases + phase;
      for (int64_t first = b.first; first < b.end; first += s.out_chunk) {
        const int64_t end = std::min(first + s.out_chunk, b.end);
        if (s.split) {
          multiply_split<S, kReading>(job, b, group, first, end, patch ? &*patch : nullptr, scratch,
                                      within);
        } else {
          multiply<S>(job, b, group, first, end, scratch);
        }
        for (int64_t r = 0; r < b.rows; r++) {
          write_row<S>(job, b, r, group, first, end, scratch, b.sums);
        }
        if (poll) poll();
      }
    }
  }
  if (job.stream) hwy::FlushStream();
}

void WinogradBlocks(const WinogradJob& job, std::span<const WinogradBlock> blocks, float* scratch,
                    const Poll& poll) {
  const bool norm = !job.p.norm.empty();
  switch (job.s.tiles) {
    case Tiles::kF43:
      return norm ? run_blocks<F43, Reading::kNormSilu>(job, blocks, scratch, poll)
                  : run_blocks<F43, Reading::kPlain>(job, blocks, scratch, poll);
    case Tiles::kF63:
      return norm ? run_blocks<F63, Reading::kNormSilu>(job, blocks, scratch, poll)
                  : run_blocks<F63, Reading::kPlain>(job, blocks, scratch, poll);
    case Tiles::kF52:
      return norm ? run_blocks<F52, Reading::kNormSilu>(job, blocks, scratch, poll)
                  : run_blocks<F52, Reading::kPlain>(job, blocks, scratch, poll);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace calotype::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace calotype::cpu {

CALOTYPE_EXPORT(WinogradBlocks);

namespace {

// Of y, that the block makes: upsampling, every second row.
int64_t pixels_of(const ConvProblem& p, const WinogradShape& s, const WinogradBlock& b) {
  const int64_t step = s.passes, early = s.out_phases - 1;
  const int64_t left = std::max<int64_t>(b.column * s.outputs * step - early, 0);
  const int64_t right = std::min((b.column + b.columns) * s.outputs * step - early, p.y.w);
  const int64_t rows = std::min(b.rows * s.outputs, p.y.h / step - b.row * s.outputs);
  return (right - left) * rows;
}

}  // namespace

void winograd_conv(const Simd& simd, const ConvProblem& p, bool fast, Workspace& work,
                   Stages& stages) {
  const WinogradShape s(simd, p.node, p.x, p.y, fast);

  const int64_t first_band = p.call.y.first_row / s.band_rows();
  const int64_t bands = divide_up(p.call.y.rows, s.band_rows());
  const int64_t parts = s.blocks * s.passes;  // of a band
  const int64_t units = p.call.batch * bands * parts;
  // Enough jobs for all threads where blocks are few: each then transforms its input for a part of
  // the output channels. Results do not depend on it.
  const int64_t most = divide_up(s.out_padded, s.split ? 32 : 64);
  const int64_t wanted = int64_t{s.split ? 2 : 4} * work.threads;  // AMX: blocks are large
  const int64_t splits = units >= wanted ? 1 : std::clamp<int64_t>(wanted / units, 1, most);
  BandStats* stats = p.call.y_stats;
  if (stats != nullptr) work.sums.reset(units, p.y.c);
  const WinogradJob job{p, s, goes_past_caches(simd, p), s.split ? simd.amx : std::nullopt};
  const auto block_of = [&](int64_t index) {
    const int64_t unit = index / splits, split = index % splits;
    const int64_t band = first_band + unit / parts % bands;
    WinogradBlock b;
    b.picture = unit / parts / bands;
    b.row = band * s.block_rows;
    b.rows = std::min(s.block_rows, s.tile_rows - b.row);
    b.column = unit % parts / s.passes * s.block_columns;
    b.columns = std::min(s.block_columns, s.tile_columns - b.column);
    b.pass = unit % s.passes;
    b.first = round_up(s.out_padded * split / splits, 2 * kBlock);
    b.end = std::min(round_up(s.out_padded * (split + 1) / splits, 2 * kBlock), s.out_padded);
    b.sums = {};
    if (stats != nullptr) {
      b.sums = work.sums.at(unit);
      if (split == 0) work.sums.set_count(unit, pixels_of(p, s, b));
    }
    return b;
  };
  // Blocks of a job: more where one prepares the next.
  constexpr int64_t kMost = 8;
  const int64_t all = units * splits;
  const int64_t run =
      s.reads_beside() ? std::clamp<int64_t>(units / (int64_t{8} * work.threads), 1, kMost) : 1;
  const auto blocks_by = CALOTYPE_DISPATCH(WinogradBlocks, simd);
  ThreadPool::shared().parallel_for(
      work.threads, divide_up(all, run),
      [&](int64_t job_index, int slot) {
        std::array<WinogradBlock, kMost> blocks;
        const int64_t first = job_index * run, count = std::min(run, all - first);
        for (int64_t i = 0; i < count; i++) blocks[static_cast<size_t>(i)] = block_of(first + i);
        std::optional<AmxJob> tiles_of_amx;
        if (job.amx) tiles_of_amx.emplace(*job.amx);
        // Slot 0 is the calling thread's.
        const Poll poll = slot == 0 ? Poll([&] { stages.poll(); }) : Poll();
        blocks_by(job, std::span(blocks).first(static_cast<size_t>(count)),
                  work.slot(slot, s.slot_floats()), poll);
      },
      stages.next(1, divide_up(all, run)));
  if (stats != nullptr) merge_sums(work.sums, p.y.c, parts, first_band, bands, *stats);
}

}  // namespace calotype::cpu
#endif  // HWY_ONCE
