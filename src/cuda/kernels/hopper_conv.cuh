// How hopper_conv cuts its work, and what lies where in shared memory.
#pragma once

#include <cuda.h>

#include "cuda/kernels/kernels.h"
#include "cuda/kernels/ptx.cuh"

namespace calotype::cuda {

constexpr int kTile = kHopperTile;
constexpr int kStageBytes = 41 * 1024;  // 18 x 18 x 128 bytes, rounded up to 1 KiB,
                                        // which the swizzle is aligned to
constexpr int kWeightStages = 4;
constexpr int kHalfBytes = 8 * kTile * 128;  // staged output: 8 x 16 pixels, 64 channels
constexpr int kThreads = 512;
// 128 threads each: (40 + 104 + 2 * 184) * 128 = 65536, all registers.
constexpr int kLoadRegisters = 40, kActivateRegisters = 104, kMultiplyRegisters = 184;

// Nanoseconds between looks at a barrier that is waited for for a whole tile, 10 us or more.
constexpr unsigned kOutputSleep = 200;

// What a launch is given.
struct HopperConv {
  CUtensorMap x[4];  // kDown: the phases of the input; else only x[0]
  CUtensorMap y[4];  // kUp: the phases of the output; else only y[0]
  CUtensorMap weights, shortcut_weights;
  CUtensorMap beside;  // the residual or the shortcut's input
  Mode mode;
  int pictures, height, width;  // of the outputs of one phase
  int in_height, in_width, rows_above;
  int tiles_x, tiles_y, column_tiles;  // column_tiles: of one phase
  int weight_rows;                     // of all phases
  int slabs, shortcut_slabs;           // slabs: of one input phase
  int pairs;                           // of the shortcut's slabs
  int channels;                        // of the output
  bool has_residual, to_store;
  int stagger;  // cycles
  const float *bias, *scale;
  Affine affine;
  Store store;
  Partials stats;
};

// Which tile number `t` is: column tiles change fastest, so that blocks that run together read the
// same pixels from L2.
struct TileIndex {
  int x, y, picture, phase, column;

  __device__ TileIndex(const HopperConv& p, int t) {
    const int columns = p.column_tiles * output_phases(p.mode);
    const int nt = t % columns;
    int rest = t / columns;
    phase = nt / p.column_tiles;
    column = nt - phase * p.column_tiles;
    x = rest % p.tiles_x;
    rest /= p.tiles_x;
    y = rest % p.tiles_y;
    picture = rest / p.tiles_y;
  }
};

// Of shared memory.
template <int kColumns>
struct Layout {
  static constexpr int kInputStages = kColumns == 128 ? 2 : 4;
  static constexpr int kWeightBytes = kColumns * 128;
  static constexpr int kWeights = kInputStages * kStageBytes;
  static constexpr int kStaging = kWeights + kWeightStages * kWeightBytes;
  static constexpr int kBytes = kStaging + (kColumns == 128 ? 4 * kHalfBytes : 0) + 1024;
};

template <int kInputStages>
struct Barriers {
  uint64_t loaded[kInputStages], ready[kInputStages], input_free[kInputStages];
  uint64_t weights_loaded[kWeightStages], weights_free[kWeightStages];
  // The staged output of each multiplying group: may be written or, of a shortcut, read; has been
  // written; a pair of the shortcut's slabs has been read.
  uint64_t staging_ready[2], staged[2], pair_free[2];
  // kSplit: the other block's memory may be written; this one's has been.
  uint64_t may_send, received;
};

// Pairs of the shortcut's slabs that are multiplied after slab s of `slabs`.
__device__ __forceinline__ int pairs_after(int s, int slabs, int pairs) {
  return (s + 1) * pairs / slabs - s * pairs / slabs;
}

__device__ __forceinline__ uint32_t address(const uint64_t& barrier) {
  return shared_address(&barrier);
}

}  // namespace calotype::cuda
