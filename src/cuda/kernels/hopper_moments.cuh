// Statistics of what hopper_conv writes: from sums of a tile to moments of all of a block's tiles.
#pragma once

#include "cuda/kernels/moments.cuh"
#include "cuda/kernels/tiling.h"

namespace calotype::cuda {

constexpr int kUnits = 64;  // pairs of channels in a tile

// Sums of one tile as the warps of a multiplying group leave them, (sum, sum of squares) per pair
// of channels, and the moments of the block's tiles so far, per column tile.
struct BlockMoments {
  float2 sums[2][4][kUnits];
  Moments total[2][kHopperColumnTiles][kUnits];
};

// Lane l adds up units l and l + 32 of a column tile.
__device__ __forceinline__ void clear_moments(BlockMoments& moments, int g, int lane) {
  for (int c = 0; c < kHopperColumnTiles; c++) {
    for (int unit = lane; unit < kUnits; unit += 32) moments.total[g][c][unit] = {0, 0, 0};
  }
}

__device__ __forceinline__ void flush_moments(const Partials& stats, int column_tiles,
                                              BlockMoments& moments, int g, int lane, int picture) {
  const int slot = blockIdx.x * 2 + g;
  __syncwarp();
  for (int c = 0; c < column_tiles; c++) {
    for (int unit = lane; unit < kUnits; unit += 32) {
      const int at = c * kUnits + unit;
      if (at < stats.units) stats.at(picture, at, slot) = moments.total[g][c][unit];
    }
  }
  clear_moments(moments, g, lane);
  __syncwarp();
}

// Adds a tile of `pixels` pixels, of group g, to column tile `column`. Sums of squares are of 8 x
// 16 x 2 values in float32: with a mean of m spreads they err by m^2 2^-24, the values themselves,
// which have 8 or 11 bits, by m 2^-9 or m 2^-12. Beyond a tile, moments are merged.
__device__ __forceinline__ void add_tile(BlockMoments& moments, int g, int column, int pixels,
                                         int lane) {
  if (pixels <= 0) return;
  const float count = 2.0f * pixels;
  for (int unit = lane; unit < kUnits; unit += 32) {
    float sum = 0, squares = 0;
    for (int warp = 0; warp < 4; warp++) {
      sum += moments.sums[g][warp][unit].x;
      squares += moments.sums[g][warp][unit].y;
    }
    const float mean = sum / count;
    Moments& total = moments.total[g][column][unit];
    total = merge(total, {count, mean, fmaxf(squares - sum * mean, 0)});
  }
}

// Adds up the lanes that have the same pairs of channels: `sums` are (sum, sum of squares) of pair
// lane % 4 of column block j, of this lane's pixels. On return sums[0 .. 3] are the whole warp's of
// blocks 2 (lane / 4) and the next. Each step exchanges one half of the list for the other half of
// the partner's.
template <int kHalf>
__device__ __forceinline__ void add_halves(float (&sums)[32], int lane) {
  const bool upper = (lane & kHalf) != 0;
#pragma unroll
  for (int i = 0; i < kHalf; i++) {
    const float own = upper ? sums[i + kHalf] : sums[i];
    const float given = upper ? sums[i] : sums[i + kHalf];
    sums[i] = own + __shfl_xor_sync(~0u, given, kHalf);
  }
}

}  // namespace calotype::cuda
