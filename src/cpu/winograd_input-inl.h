// What a block of tiles multiplies: its pixels, read, normed and activated, then transformed.
// Included once a target.

#ifndef CALOTYPE_CPU_WINOGRAD_INPUT_ONCE
#define CALOTYPE_CPU_WINOGRAD_INPUT_ONCE
#include <optional>

#include "cpu/winograd.h"

namespace calotype::cpu {

// Tiles [row, row + rows) x [column, column + columns) of a picture, one pass over them, and output
// channels [first, end).
struct WinogradBlock {
  int64_t picture, row, rows, column, columns, pass, first, end;
  BlockSums sums;
};

struct WinogradJob {
  const ConvProblem& p;
  const WinogradShape& s;
  bool stream;  // y goes past the caches
  std::optional<AmxUnit> amx;
};

}  // namespace calotype::cpu
#endif  // CALOTYPE_CPU_WINOGRAD_INPUT_ONCE

#if defined(CALOTYPE_CPU_WINOGRAD_INPUT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CALOTYPE_CPU_WINOGRAD_INPUT_INL_H_
#undef CALOTYPE_CPU_WINOGRAD_INPUT_INL_H_
#else
#define CALOTYPE_CPU_WINOGRAD_INPUT_INL_H_
#endif

#include "cpu/gemm-inl.h"
#include "cpu/winograd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace calotype::cpu {
namespace HWY_NAMESPACE {
namespace {

// A thread's scratch, by its parts.
struct Scratch {
  Scratch(const WinogradShape& s, float* memory)
      : patch(memory),
        results(patch + round_up(s.patch_floats(), kBlock)),
        input(results + s.result_floats()),
        of_amx(input + s.input_floats()),
        started(of_amx + s.of_amx_floats()) {}
  float* patch;    // [channel / 16][row][column][16]
  float* results;  // [product][channel / 16][tile][16]; see shares_planes
  // Transformed: [product][Layout::kTilesOf16 of tiles by depth], for AMX [product][depth /
  // 16][tile][16].
  float* input;
  float* of_amx;   // one product's input as A of a SplitProduct
  float* started;  // of each 16 channels, nonzero once their sums are
};

template <Reading kReading>
HWY_INLINE void read_block(const float* x, int64_t channel, int64_t channels,
                           const NormPointers& norm, float* out) {
  if (channel + kBlock <= channels) {
#pragma GCC unroll 16
    for (int64_t c = 0; c < kBlock; c += kLanes) {
      hn::StoreU(read<kReading>(hn::LoadU(d, x + channel + c), norm, channel + c), d, out + c);
    }
    return;
  }
  for (int64_t c = 0; c < kBlock; c += kLanes) {
    const int64_t at = channel + c;
    const V v = load_part(x + std::min(at, channels), channels - at);
    store_part(read<kReading>(v, norm, at), out + c, kLanes);
  }
}

// Reads channels [channel, channel + count) of the pixels that a block's tiles need: pixel (r, c)
// of the patch is (top + r * step, left + c * step) of x.
template <Reading kReading>
class Patch {
 public:
  Patch(const WinogradJob& job, const WinogradBlock& b, int64_t top, int64_t left, int64_t step,
        int64_t channel, int64_t count, float* out)
      : p_(job.p),
        s_(job.s),
        norm_{job.p.norm.mean(b.picture), job.p.norm.scale(b.picture), job.p.norm.shift(b.picture)},
        picture_(b.picture),
        rows_(b.rows * s_.outputs + s_.taps - 1),
        columns_(b.columns * s_.outputs + s_.taps - 1),
        top_(top),
        left_(left),
        step_(step),
        channel_(channel),
        count_(count),
        plane_(s_.patch_rows() * s_.patch_columns() * kBlock),
        out_(out) {}

  bool full() const { return row_ == rows_; }
  void fill() {
    while (!full()) {
      begin_row();
      for (int64_t c = 0; c < columns_; c++) read_pixel(c);
      row_++;
    }
  }
  void fill_rest() {
    while (column_ != 0) next_pixel();
    fill();
  }
  void next_pixel() {
    if (column_ == 0) begin_row();
    read_pixel(column_);
    if (++column_ < columns_) return;
    column_ = 0;
    row_++;
  }

 private:
  void begin_row() {
    const int64_t y = top_ + row_ * step_;
    const bool inside = y >= 0 && y < p_.x.h;
    from_ = inside ? p_.x_row(picture_, y) : nullptr;
    ahead_ = row_ + 1 < rows_ && y + step_ < p_.x.h ? step_ * p_.x.w * s_.in : 0;
  }
  HWY_INLINE void read_pixel(int64_t column) {
    float* out = out_ + (row_ * s_.patch_columns() + column) * kBlock;
    const int64_t x = left_ + column * step_;
    if (from_ == nullptr || x < 0 || x >= p_.x.w) {
      for (int64_t k = 0; k < count_; k += kBlock, out += plane_) {
        for (int64_t c = 0; c < kBlock; c += kLanes) hn::StoreU(hn::Zero(d), d, out + c);
      }
      return;
    }
    const float* pixel = from_ + x * s_.in;
    if (ahead_ != 0) {
      for (int64_t k = 0; k < count_; k += kBlock)
        __builtin_prefetch(pixel + ahead_ + channel_ + k);
    }
    for (int64_t k = 0; k < count_; k += kBlock, out += plane_)
      read_block<kReading>(pixel, channel_ + k, s_.in, norm_, out);
  }

  const ConvProblem& p_;
  const WinogradShape& s_;
  NormPointers norm_;
  int64_t picture_, rows_, columns_, top_, left_, step_, channel_, count_, plane_;
  float* out_;
  int64_t row_ = 0, column_ = 0;  // of the next pixel
  const float* from_ = nullptr;   // its row, or null
  int64_t ahead_ = 0;             // to the row after
};

// Where a tile's first 16 of the depth are in a plane of the transformed input, and how far apart
// each 16 are.
class TilePlaces {
 public:
  TilePlaces(const WinogradShape& s, int64_t tiles)
      : of_amx_(s.split),
        step_of_amx_(s.rows_of(tiles) * kBlock),
        depth_(s.depth()),
        rows_(tiles) {}
  std::pair<int64_t, int64_t> operator()(int64_t tile) const {
    if (of_amx_) return {tile * kBlock, step_of_amx_};
    return rows_.place(tile, depth_);
  }

 private:
  bool of_amx_;
  int64_t step_of_amx_, depth_;
  RowTiles rows_;
};

// Transforms a row of tiles, the first of which is the block's tile `first`, of one plane of the
// patch (block `k` of the depth): first all columns of pixels, each once, then each tile along its
// rows.
template <class S>
void transform_row(const WinogradShape& s, const TilePlaces& places, int64_t first, int64_t tiles,
                   int64_t k, const float* patch, float* input) {
  constexpr int kPoints = S::kPoints, kOutputs = S::kOutputs, kShared = S::kTaps - 1;
  const int64_t pitch = s.patch_columns() * kBlock, plane = s.input_plane();
  V columns[kParts][kPoints][kPoints];  // [part][row point][pixel column]
  const auto transform_column = [&](const float* from, int at) HWY_ATTR {
#pragma GCC unroll 16
    for (int part = 0; part < kParts; part++) {
      V in[kPoints], points[kPoints];
#pragma GCC unroll 8
      for (int r = 0; r < kPoints; r++) in[r] = hn::LoadU(d, from + r * pitch + part * kLanes);
      S::input(in, points);
#pragma GCC unroll 8
      for (int r = 0; r < kPoints; r++) columns[part][r][at] = points[r];
    }
  };
  for (int c = 0; c < kShared; c++) transform_column(patch + c * kBlock, c);
  for (int64_t tile = 0; tile < tiles; tile++) {
    const auto [place, step] = places(first + tile);
    float* out = input + place + k * step;
    for (int i = 0; i < kPoints * kPoints; i++) __builtin_prefetch(out + kBlock + i * plane, 1, 3);
    for (int c = kShared; c < kPoints; c++) {
      transform_column(patch + (tile * kOutputs + c) * kBlock, c);
    }
    for (int r = 0; r < kPoints; r++) {
#pragma GCC unroll 16
      for (int part = 0; part < kParts; part++) {
        V in[kPoints], points[kPoints];
#pragma GCC unroll 8
        for (int c = 0; c < kPoints; c++) in[c] = columns[part][r][c];
#pragma GCC unroll 2
        for (int c = 0; c < kShared; c++) columns[part][r][c] = in[kOutputs + c];
        S::input(in, points);
#pragma GCC unroll 8
        for (int c = 0; c < kPoints; c++) {
          hn::StoreU(points[c], d, out + (r * kPoints + c) * plane + part * kLanes);
        }
      }
    }
  }
}

// Of phase `phase` of x.
template <Reading kReading>
Patch<kReading> patch_of(const WinogradJob& job, const WinogradBlock& b, int64_t phase,
                         int64_t channel, const Scratch& scratch) {
  const WinogradShape& s = job.s;
  const int64_t row_phases[4] = {1, 0, 0, 1}, column_phases[4] = {0, 0, 1, 1};  // as depth_of
  const bool down = s.in_phases > 1;
  const int64_t step = down ? 2 : 1;
  const int64_t top = b.row * s.outputs * step + (down ? row_phases[phase] : b.pass - 1);
  const int64_t left = b.column * s.outputs * step + (down ? column_phases[phase] : -1);
  const int64_t count = std::min(s.in_chunk, s.in_padded - channel);
  return Patch<kReading>(job, b, top, left, step, channel, count, scratch.patch);
}

// Reads and transforms what the block multiplies. `begun`: its only patch, or none.
template <class S, Reading kReading>
void transform_input(const WinogradJob& job, const WinogradBlock& b, Patch<kReading>* begun,
                     const Scratch& scratch) {
  const WinogradShape& s = job.s;
  const TilePlaces places(s, b.rows * b.columns);
  for (int64_t phase = 0; phase < s.in_phases; phase++) {
    for (int64_t channel = 0; channel < s.in_padded; channel += s.in_chunk) {
      if (begun != nullptr) {
        begun->fill_rest();
      } else {
        patch_of<kReading>(job, b, phase, channel, scratch).fill();
      }
      const int64_t count = std::min(s.in_chunk, s.in_padded - channel);
      for (int64_t k = 0; k < count; k += kBlock) {
        const float* plane =
            scratch.patch + k / kBlock * s.patch_rows() * s.patch_columns() * kBlock;
        for (int64_t r = 0; r < b.rows; r++) {
          transform_row<S>(s, places, r * b.columns, b.columns,
                           (phase * s.in_padded + channel + k) / kBlock,
                           plane + r * s.outputs * s.patch_columns() * kBlock, scratch.input);
        }
      }
    }
  }
}

}  // namespace
// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace calotype::cpu
HWY_AFTER_NAMESPACE();

#endif  // CALOTYPE_CPU_WINOGRAD_INPUT_INL_H_
