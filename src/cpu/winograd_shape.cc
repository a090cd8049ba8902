#include <algorithm>

#include "cpu/winograd.h"

namespace calotype::cpu {

WinogradShape::WinogradShape(const Simd& simd, const ConvNode& node, Extent x, Extent y,
                             bool fast) {
  const bool up = node.sampling == Sampling::kUpsample,
             down = node.sampling == Sampling::kDownsample;
  tiles = up || down ? Tiles::kF52 : fast ? Tiles::kF63 : Tiles::kF43;
  outputs = tiles == Tiles::kF52 ? 5 : tiles == Tiles::kF63 ? 6 : 4;
  taps = tiles == Tiles::kF52 ? 2 : 3;
  points = outputs + taps - 1;
  products = points * points;
  in = x.c;
  in_padded = round_up(in, kBlock);
  out = y.c;
  out_padded = round_up(out, kBlock);
  in_phases = down ? 4 : 1;
  passes = up ? 2 : 1;
  out_phases = up ? 2 : 1;
  // Upsampling: tiles of the small picture, whose odd columns begin a pixel before it.
  tile_rows = divide_up(up ? x.h : y.h, outputs);
  tile_columns = divide_up(up ? x.w + 1 : y.w, outputs);
  // About 48 tiles a block: with 8 register tiles to each panel of weights, a core reads 4 to 5
  // GB/s of weights at 100 GFLOP/s; more would push the transformed input out of L2.
  // F(6, 3) has 64 products instead of 36: 32 tiles.
  block_rows = std::min<int64_t>(4, tile_rows);
  const int64_t amx_columns = simd.amx ? columns_for_amx() : 0;
  split = amx_columns > 0;
  // AVX-512 reads weights twice as fast; where they are 38 MB, more than an L3 gives one core, 88.
  blocks = divide_up(tile_columns, split                                 ? amx_columns
                                   : tiles == Tiles::kF63 && in < 512    ? 8
                                   : simd.has_avx512 && in_padded >= 512 ? 22
                                                                         : 13);
  block_columns = divide_up(tile_columns, blocks);
  blocks = divide_up(tile_columns, block_columns);
  // 64 channels of a patch of 18 x 50 pixels are 230 kB, half of L2.
  in_chunk = in_padded == 128 ? 128 : std::min<int64_t>(in_padded, 64);
  out_chunk = std::min<int64_t>(out_padded, split ? 512 : 128);
}

// Columns of tiles in a block where tiles of AMX are faster than float32 units, else 0.
int64_t WinogradShape::columns_for_amx() const {
  if (in_phases > 1 || in_padded % 32 != 0 || out_padded % 32 != 0) return 0;
  // 32 tiles, where the weights (0.9 MB for 64 channels, as three bf16) stay in L2 beside them.
  if (passes == 1 && in_padded <= 64 && out_padded <= 64) return 8;
  // Else weights come from L3 or memory, six bytes for a float32 to units that are twice as fast:
  // 256 tiles, if there are enough of such blocks for all threads; 128 tiles for 128 channels,
  // where there are fewer or every tile has half as much to do.
  const int64_t tiles_in_all = tile_rows * tile_columns * passes;
  const bool many = tiles_in_all >= int64_t{16} * 256;
  const bool half = passes == 1 && out_padded < 128;
  if (in_padded <= 128 && out_padded <= 128 && (half || !many))
    return tiles_in_all >= int64_t{8} * 128 ? 32 : 0;
  return in_padded <= 512 && !half && many ? 64 : 0;
}

int64_t WinogradShape::slot_floats() const {
  const int64_t of_block = round_up(patch_floats(), kBlock) + input_floats() + result_floats() +
                           of_amx_floats() + started_floats();
  const int64_t of_weights = kBlock * in * 9;  // filters as they come
  return std::max(of_block, of_weights);
}

WinogradShape::Range WinogradShape::depth_of(int64_t row, int64_t column) const {
  const int64_t blocks_of_phase = in_padded / kBlock;
  if (in_phases == 1) return {0, blocks_of_phase};
  // Phases (row, column) in the order (1, 0), (0, 0), (0, 1), (1, 1): even rows are the middle two,
  // even columns the first two.
  const bool even_rows = row == points - 1, even_columns = column == points - 1;
  return {blocks_of_phase * (even_rows ? 1 : 0), blocks_of_phase * (even_columns ? 2
                                                                    : even_rows  ? 3
                                                                                 : 4)};
}

bool winograd_takes(const ConvNode& node) {
  // Below that, padding to blocks of 16 costs more than the algorithm saves.
  return node.conv.kernel == 3 && node.conv.in >= 12 && node.conv.out >= 12;
}

bool winograd_pays(const WinogradShape& s, const ConvNode& node, Extent y) {
  if (!s.weights_are_large()) return true;
  // To write a transformed weight to memory and read it again takes the time of 300 FLOP (38 MB in
  // 7 ms where FMA units make 458 GFLOP/s); products of few rows reach two thirds of what others
  // do.
  constexpr double kFlopOfWeight = 300, kDirectSpeed = 2.0 / 3;
  const double direct = 2.0 * 9 * static_cast<double>(node.conv.in * node.conv.out * y.h * y.w);
  return winograd_flop(s) + kFlopOfWeight * static_cast<double>(s.weight_floats()) <
         direct / kDirectSpeed;
}

double winograd_flop(const WinogradShape& s) {
  double depth = 0;  // summed over the products
  for (int64_t row = 0; row < s.points; row++) {
    for (int64_t column = 0; column < s.points; column++) {
      const WinogradShape::Range range = s.depth_of(row, column);
      depth += static_cast<double>((range.end - range.first) * kBlock);
    }
  }
  const double tiles = static_cast<double>(s.tile_rows * s.tile_columns);
  return 2 * static_cast<double>(s.out_padded * s.groups()) * tiles * depth;
}

WorkspaceBytes winograd_workspace(const WinogradShape& s, Extent y, int64_t batch, int threads) {
  const int64_t units = batch * divide_up(y.h, s.band_rows()) * s.blocks * s.passes;
  return workspace_bytes(threads, s.slot_floats(), units, s.out_padded);
}

}  // namespace calotype::cpu
