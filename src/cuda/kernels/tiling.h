// How many tiles the kernels cut a convolution into: for launching, and for planning memory.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/kernels/geometry.h"

namespace calotype::cuda {

inline constexpr int kHopperTile = 16;  // pixels, each way
inline constexpr int kPortableTileH = 8, kPortableTileW = 16;
inline constexpr int kHopperColumnTiles = 6;  // of fused statistics; shared memory bounds it
inline constexpr int kHopperRowTile = 128, kSimtRowTile = 64;

inline int hopper_row_tile(int channels, bool to_store) {
  if (!to_store) return kHopperRowTile;
  return channels <= 8 ? 8 : 32;
}
inline int mma_row_tile(int channels) { return channels <= 32 ? 32 : 128; }

// `h` x `w`: the output.
inline int64_t tiles_of(Mode mode, int h, int w, int tile_h, int tile_w) {
  const int phases = output_phases(mode);
  if (mode == Mode::kUp) {
    h /= 2;
    w /= 2;
  }
  return int64_t{(h + tile_h - 1) / tile_h} * ((w + tile_w - 1) / tile_w) * phases;
}

// Where the tiles are so few that half of the multiprocessors would have none, each tile is
// computed by two, half of the input channels each. `slabs` of the input and of a shortcut.
inline bool hopper_splits(Mode mode, int64_t tiles, int slabs, int shortcut_slabs, int processors) {
  return mode == Mode::kSame && 2 * tiles <= processors && slabs >= 2 && shortcut_slabs == 0;
}
// Blocks of a persistent grid over `tiles` of pixels and channels.
inline int64_t hopper_blocks(int64_t tiles, bool splits, int processors) {
  return splits ? 2 * tiles : std::min<int64_t>(processors, tiles);
}

// Slots of statistics (see Partials) that the kernels fill: two groups of threads a block; tiles.
inline int64_t hopper_stats_slots(Mode mode, int n, int h, int w, int column_tiles, int slabs,
                                  int shortcut_slabs, int processors) {
  const int64_t tiles = tiles_of(mode, h, w, kHopperTile, kHopperTile) * n * column_tiles;
  const bool splits = hopper_splits(mode, tiles, slabs, shortcut_slabs, processors);
  return 2 * hopper_blocks(tiles, splits, processors);
}
// A 1x1 takes pixels one after the other.
inline int64_t mma_stats_slots(Mode mode, int h, int w) {
  if (mode == Mode::kPoint) {
    const int64_t rows = (int64_t{h} * w + kPortableTileW - 1) / kPortableTileW;
    return (rows + kPortableTileH - 1) / kPortableTileH;
  }
  return tiles_of(mode, h, w, kPortableTileH, kPortableTileW);
}
inline int64_t channel_moments_slots(int n, int64_t pixels, int processors) {
  return std::min<int64_t>(4 * processors / n + 1, (pixels + 63) / 64);
}
// Elements of PackConv::packed; `rows` of one output phase.
inline int64_t packed_elements(Mode mode, int in, int shortcut_in, int rows) {
  return (int64_t{slabs_of(in)} * taps_per_slab(mode) + slabs_of(shortcut_in)) * rows *
         output_phases(mode) * kSlab;
}
// Bytes of the same as pack_fp8 leaves it.
inline int64_t fp8_packed_bytes(Mode mode, int in, int shortcut_in, int rows) {
  return packed_elements(mode, in, 0, rows) + 2 * int64_t{slabs_of(shortcut_in)} * rows * kSlab;
}
// Floats of HopperAttention::sums.
inline int64_t hopper_attention_sums(int64_t rows, int64_t tokens) {
  return rows * ((tokens + 127) / 128);
}

}  // namespace calotype::cuda
