// Convolution on sm_90a as one persistent kernel: an implicit matrix product with everything around
// it fused in.
//
// A tile is 16 x 16 output pixels by 128 output channels. A slab of 64 input channels arrives by
// TMA as one 18 x 18 box (zeros outside of the picture are the padding), is normed and SiLU'd where
// it lies, and is read by the nine taps through shifted wgmma descriptors: each value is loaded and
// activated once per tile, not nine times. The weights of one (slab, tap) are 128 x 64, a ring of
// four. 16 warps: loading and storing, activating, and two groups that multiply, 128 pixels each;
// while one group writes its tile the other keeps the tensor cores busy. It gets no further than
// the ring of weights, 4 x 512 cycles, so writing a tile must be short: statistics are
// merged by the storing warps.
//
// Count per slab and tile: 9 taps x 4 steps x 4 wgmma (m64n128k16, 64 cycles each: 2 x 64 x 128 x
// 16 FLOP at 4096 FLOP a cycle) = 9216 cycles. Activating 324 x 64 values takes 1296 cycles of the
// special function units (16 a cycle), loading 41 KiB from L2 about 650 (64 bytes a cycle): both
// are hidden. wgmma reads 2 KiB of A and 4 KiB of B in 64 cycles: 96 of shared memory's 128 bytes a
// cycle.
#include <cuda.h>

#include <algorithm>

#include "core/cat.h"
#include "cuda/kernels/launch.cuh"
#include "cuda/kernels/moments.cuh"
#include "cuda/kernels/ptx.cuh"
#include "cuda/kernels/store.cuh"
#include "cuda/kernels/tensor_map.h"

namespace calotype::cuda {
namespace {

constexpr int kTile = kHopperTile;
constexpr int kStageBytes = 41 * 1024;  // 18 x 18 x 128 bytes, rounded up to 1 KiB,
                                        // which the swizzle is aligned to
constexpr int kWeightStages = 4;
constexpr int kHalfBytes = 8 * kTile * 128;  // staged output: 8 x 16 pixels, 64 channels
constexpr int kMaxColumnTiles = kHopperColumnTiles;
constexpr int kUnits = 64;  // pairs of channels in a tile
constexpr int kThreads = 512;
// 128 threads each: (40 + 104 + 2 * 184) * 128 = 65536, all registers.
constexpr int kLoadRegisters = 40, kActivateRegisters = 104, kMultiplyRegisters = 184;

// Nanoseconds between looks at a barrier that is waited for for a whole tile, 10 us or more.
constexpr unsigned kOutputSleep = 200;

struct Kernel {
  CUtensorMap x[4];  // kDown: the phases of the input; else only x[0]
  CUtensorMap y[4];  // kUp: the phases of the output; else only y[0]
  CUtensorMap shortcut, weights, residual;
  Mode mode;
  int pictures, height, width;  // of the outputs of one phase
  int in_height, in_width, rows_above;
  int tiles_x, tiles_y, column_tiles;  // column_tiles: of one phase
  int weight_rows;                     // of all phases
  int slabs, shortcut_slabs;           // slabs: of one input phase
  int channels;                        // of the output
  bool has_residual, to_store;
  int stagger;  // cycles
  const float* bias;
  Affine affine;
  Store store;
  Partials stats;
};

// Which tile number `t` is: column tiles change fastest, so that blocks that run together read the
// same pixels from L2.
struct TileIndex {
  int x, y, picture, phase, column;

  __device__ TileIndex(const Kernel& p, int t) {
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
  // The staged output of each multiplying group: may be written, has been written.
  uint64_t staging_ready[2], staged[2];
};

__device__ __forceinline__ uint32_t address(const uint64_t& barrier) {
  return shared_address(&barrier);
}

// SiLU of the affine of two values; factors are halved, see silu_of_half.
template <class T>
__device__ __forceinline__ uint32_t activate(uint32_t pair, float2 low, float2 high) {
  const float2 v = unpack<T>(pair);
  return pack<T>(silu_of_half(fmaf(v.x, low.x, low.y)), silu_of_half(fmaf(v.y, high.x, high.y)));
}

// The activating warpgroup's share of one slab: each thread has eight channels of every 16th pixel.
template <class T>
__device__ __forceinline__ void activate_slab(uint8_t* stage, const float2* affine, int side,
                                              int first_y, int first_x, int height, int width,
                                              uint32_t loaded, uint32_t parity) {
  constexpr int kAtOnce = 3;  // pixels in flight: 12 registers of values
  const int thread = threadIdx.x & 127, chunk = thread & 7, first = thread >> 3;
  float2 factor[8];
#pragma unroll
  for (int i = 0; i < 8; i++) {
    factor[i] = __ldg(affine + chunk * 8 + i);
    factor[i].x *= 0.5f;
    factor[i].y *= 0.5f;
  }
  barrier_wait(loaded, parity);
  const int pixels = side * side;
  // pixel / side as a product: exact for pixel < 336, sides 16 to 18.
  const int reciprocal = 65536 / side + 1;
  // Pixel p's 16-byte chunk c lies at chunk c ^ (p % 8) of its 128-byte row; p % 8 is the same for
  // all of a thread's pixels.
  uint8_t* base = stage + first * 128 + ((chunk ^ (first & 7)) << 4);
#pragma unroll 1
  for (int i = 0; i < pixels; i += 16 * kAtOnce) {
    uint4 v[kAtOnce];
    bool inside[kAtOnce];
#pragma unroll
    for (int u = 0; u < kAtOnce; u++) {
      const int pixel = first + i + 16 * u, row = (pixel * reciprocal) >> 16;
      const int y = first_y + row, x = first_x + pixel - row * side;
      inside[u] = static_cast<unsigned>(y) < static_cast<unsigned>(height) &&
                  static_cast<unsigned>(x) < static_cast<unsigned>(width);
      if (pixel < pixels) v[u] = *reinterpret_cast<const uint4*>(base + 128 * (i + 16 * u));
    }
#pragma unroll
    for (int u = 0; u < kAtOnce; u++) {
      v[u].x = activate<T>(v[u].x, factor[0], factor[1]);
      v[u].y = activate<T>(v[u].y, factor[2], factor[3]);
      v[u].z = activate<T>(v[u].z, factor[4], factor[5]);
      v[u].w = activate<T>(v[u].w, factor[6], factor[7]);
    }
#pragma unroll
    for (int u = 0; u < kAtOnce; u++) {
      if (first + i + 16 * u < pixels) {
        *reinterpret_cast<uint4*>(base + 128 * (i + 16 * u)) =
            inside[u] ? v[u] : make_uint4(0, 0, 0, 0);  // the padding is not normed
      }
    }
  }
}

// Sums of one tile as the warps of a multiplying group leave them, (sum, sum of squares) per pair
// of channels, and the moments of the block's tiles so far, per column tile.
struct BlockMoments {
  float2 sums[2][4][kUnits];
  Moments total[2][kMaxColumnTiles][kUnits];
};

// Lane l adds up units l and l + 32 of a column tile.
__device__ __forceinline__ void clear_moments(BlockMoments& moments, int g, int lane) {
  for (int c = 0; c < kMaxColumnTiles; c++) {
    for (int unit = lane; unit < kUnits; unit += 32) moments.total[g][c][unit] = {0, 0, 0};
  }
}

__device__ __forceinline__ void flush_moments(const Kernel& p, BlockMoments& moments, int g,
                                              int lane, int picture) {
  const int slot = blockIdx.x * 2 + g;
  __syncwarp();
  for (int c = 0; c < p.column_tiles; c++) {
    for (int unit = lane; unit < kUnits; unit += 32) {
      const int at = c * kUnits + unit;
      if (at < p.stats.units) p.stats.at(picture, at, slot) = moments.total[g][c][unit];
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

template <class T, int kColumns, bool kNorm, int kSteps>
__global__ void __launch_bounds__(kThreads, 1)
    hopper_conv_kernel(const __grid_constant__ Kernel p) {
  using L = Layout<kColumns>;
  constexpr int kInputStages = L::kInputStages;
  constexpr bool kStaged = kColumns == 128;
  extern __shared__ uint8_t dynamic[];
  __shared__ __align__(8) Barriers<kInputStages> barriers;
  __shared__ BlockMoments moments;  // taken only where kStaged uses it
  const uint32_t base = (shared_address(dynamic) + 1023) & ~1023u;
  uint8_t* const stages = dynamic + (base - shared_address(dynamic));
  const uint32_t weights = base + L::kWeights;

  if (threadIdx.x == 0) {
    for (int i = 0; i < kInputStages; i++) {
      barrier_init(address(barriers.loaded[i]), 1);
      barrier_init(address(barriers.ready[i]), 128);
      barrier_init(address(barriers.input_free[i]), 8);  // warps that multiply
    }
    for (int i = 0; i < kWeightStages; i++) {
      barrier_init(address(barriers.weights_loaded[i]), 1);
      barrier_init(address(barriers.weights_free[i]), 8);
    }
    for (int i = 0; i < 2; i++) {
      barrier_init(address(barriers.staging_ready[i]), 1);
      barrier_init(address(barriers.staged[i]), 128);
    }
    barrier_fence_init();
    tma_prefetch_map(&p.weights);
    tma_prefetch_map(&p.x[0]);
  }
  __syncthreads();
  let_next_grid_start();

  // The same in a warp, and known to be: what follows from it can live in uniform registers.
  const int group = __shfl_sync(~0u, threadIdx.x >> 7, 0);
  const int columns = p.column_tiles * output_phases(p.mode);
  const int tiles = p.pictures * p.tiles_y * p.tiles_x * columns;
  const int main_slabs = p.slabs * input_phases(p.mode), slabs = main_slabs + p.shortcut_slabs;
  const int side = kTile + box_margin(p.mode);

  if (group == 0) {
    shrink_registers<kLoadRegisters>();
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    if (warp == 0 && lane == 0) {  // weights: they depend on no other grid
      const int blocks = p.slabs * taps_per_slab(p.mode) + p.shortcut_slabs;
      Ring<kWeightStages> ring(1);
      for (int t = blockIdx.x; t < tiles; t += gridDim.x) {
        int row = (t % columns) * kColumns;
        for (int k = 0; k < blocks; k++, row += p.weight_rows) {
          const uint32_t loaded = address(barriers.weights_loaded[ring.stage]);
          barrier_wait(address(barriers.weights_free[ring.stage]), ring.parity);
          barrier_expect(loaded, L::kWeightBytes);
          tma_load(weights + ring.stage * L::kWeightBytes, &p.weights, loaded, 0, row);
          ring.next();
        }
      }
    } else if (warp == 1 && lane == 0) {  // boxes of the input
      wait_for_previous_grid();
      Ring<kInputStages> ring(1);
      for (int t = blockIdx.x; t < tiles; t += gridDim.x) {
        const TileIndex tile(p, t);
        const int x = tile.x * kTile, y = tile.y * kTile, origin = box_origin(p.mode);
        const int first_y = y + origin + p.rows_above;
        for (int s = 0; s < slabs; s++) {
          const uint32_t loaded = address(barriers.loaded[ring.stage]);
          const uint32_t to = base + ring.stage * kStageBytes;
          barrier_wait(address(barriers.input_free[ring.stage]), ring.parity);
          if (s < main_slabs) {
            const int phase = s / p.slabs;
            barrier_expect(loaded, side * side * 128);
            tma_load(to, &p.x[phase], loaded, 0, x + origin, first_y, tile.picture,
                     s - phase * p.slabs);
          } else {
            barrier_expect(loaded, kTile * kTile * 128);
            tma_load(to, &p.shortcut, loaded, 0, x, y, tile.picture, s - main_slabs);
          }
          ring.next();
        }
      }
    } else if (kStaged && warp >= 2) {  // the staged output of group warp - 2, in and out
      const int g = warp - 2;
      const uint32_t staging = base + L::kStaging + 2 * g * kHalfBytes;
      const uint32_t ready = address(barriers.staging_ready[g]);
      const bool with_stats = p.stats.data != nullptr;
      wait_for_previous_grid();
      if (with_stats) clear_moments(moments, g, lane);
      uint32_t parity = 0;
      int next_picture = 0;
      for (int t = blockIdx.x; t < tiles; t += gridDim.x, parity ^= 1) {
        const TileIndex tile(p, t);
        const int plane = 2 * tile.column, halves = p.channels > (plane + 1) * kSlab ? 2 : 1;
        const int x = tile.x * kTile, y = tile.y * kTile + 8 * g;
        if (lane == 0) {
          if (p.has_residual) {
            barrier_expect(ready, halves * kHalfBytes);
            for (int h = 0; h < halves; h++) {
              tma_load(staging + h * kHalfBytes, &p.residual, ready, 0, x, y, tile.picture,
                       plane + h);
            }
          } else {
            barrier_arrive(ready);
          }
        }
        __syncwarp();
        barrier_wait_asleep(address(barriers.staged[g]), parity, kOutputSleep);
        if (lane == 0) {
          for (int h = 0; h < halves; h++) {
            tma_store(staging + h * kHalfBytes, &p.y[tile.phase], 0, x, y, tile.picture, plane + h);
          }
          tma_commit();
        }
        __syncwarp();
        if (with_stats) {
          for (; next_picture < tile.picture; next_picture++) {
            flush_moments(p, moments, g, lane, next_picture);
          }
          const int rows = min(8, p.height - y), columns_inside = min(kTile, p.width - x);
          add_tile(moments, g, tile.column, rows * columns_inside, lane);
        }
        if (lane == 0) tma_wait_read();
        __syncwarp();
      }
      for (; with_stats && next_picture < p.pictures; next_picture++) {
        flush_moments(p, moments, g, lane, next_picture);
      }
      if (lane == 0) tma_wait();
    }
  } else if (group == 1) {
    shrink_registers<kActivateRegisters>();
    if constexpr (kNorm) {
      wait_for_previous_grid();
      Ring<kInputStages> ring(0);
      for (int t = blockIdx.x; t < tiles; t += gridDim.x) {
        const TileIndex tile(p, t);
        const int origin = box_origin(p.mode);
        for (int s = 0; s < slabs; s++) {
          const uint32_t loaded = address(barriers.loaded[ring.stage]);
          if (s < main_slabs) {
            const int phase = s / p.slabs;
            const bool halved = p.mode == Mode::kDown;
            const int height = halved ? (p.in_height - (phase >> 1) + 1) / 2 : p.in_height;
            const int width = halved ? (p.in_width - (phase & 1) + 1) / 2 : p.in_width;
            activate_slab<T>(stages + ring.stage * kStageBytes,
                             p.affine.data + int64_t{tile.picture} * p.affine.stride +
                                 (s - phase * p.slabs) * kSlab,
                             side, tile.y * kTile + origin + p.rows_above, tile.x * kTile + origin,
                             height, width, loaded, ring.parity);
            fence_to_async();
          } else {
            barrier_wait(loaded, ring.parity);
          }
          barrier_arrive(address(barriers.ready[ring.stage]));
          ring.next();
        }
      }
    }
  } else {
    grow_registers<kMultiplyRegisters>();
    const int g = group - 2, lane = threadIdx.x & 31;
    const int warp = (threadIdx.x >> 5) & 3, quad = lane & 3, row8 = lane >> 2;
    wait_for_previous_grid();
    // Of the tile's 16 rows of pixels this group has eight: two m64, of the left and right eight
    // columns; rows of a m64 are (pixel row, column).
    constexpr uint32_t kWeightForm = descriptor_form(8 * 128);
    float sums[2][kColumns / 2];
    Ring<kInputStages> input(0);
    Ring<kWeightStages> weight(0);
    uint32_t parity = 0;  // of this tile
    bool first_tile = true;
    for (int t = blockIdx.x; t < tiles; t += gridDim.x) {
      const TileIndex tile(p, t);
      int used_input = -1, used_weight = -1, add = 0, block = 0;
      const int blocks = p.slabs * taps_per_slab(p.mode) + p.shortcut_slabs;
      for (int s = 0; s < slabs; s++) {
        const bool is_main = s < main_slabs;
        const Taps taps =
            is_main ? taps_of(p.mode, s / p.slabs, tile.phase) : taps_of(Mode::kPoint, 0, 0);
        const int pitch = (is_main ? side : kTile) * 128;
        const uint32_t form = descriptor_form(pitch);
        barrier_wait(address(kNorm ? barriers.ready[input.stage] : barriers.loaded[input.stage]),
                     input.parity);
        // The second group starts half a slab late, so that the two do not write their tiles at
        // the same time.
        if (first_tile && block == 0 && g == 1 && p.stagger > 0) {
          const long long start = clock64();
          while (clock64() - start < p.stagger) {
          }
        }
        const uint32_t box = base + input.stage * kStageBytes + g * 8 * pitch;
        for (int i = 0; i < taps.ny; i++) {
          for (int j = 0; j < taps.nx; j++) {
            const uint32_t left = box + (taps.oy + i) * pitch + (taps.ox + j) * 128;
            const uint32_t a0 = descriptor_start(left);
            const uint32_t a1 = descriptor_start(left + 8 * 128);
            const uint32_t b = descriptor_start(weights + weight.stage * L::kWeightBytes);
            barrier_wait(address(barriers.weights_loaded[weight.stage]), weight.parity);
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < kSteps; k++) {
              const uint32_t along = k * kDescriptorStep;
              const uint64_t columns = descriptor(b + along, kWeightForm);
              wgmma<T, kColumns>(sums[0], descriptor(a0 + along, form), columns, add);
              wgmma<T, kColumns>(sums[1], descriptor(a1 + along, form), columns, add);
              add = 1;
            }
            wgmma_commit();
            wgmma_wait<1>();  // the block before this one is done
            if (lane == 0) {
              if (used_weight >= 0) barrier_arrive(address(barriers.weights_free[used_weight]));
              if (used_input >= 0) barrier_arrive(address(barriers.input_free[used_input]));
            }
            used_input = -1;
            used_weight = weight.stage;
            weight.next();
            block++;
          }
        }
        used_input = input.stage;
        input.next();
      }
      wgmma_wait<0>();
      if (lane == 0) {
        barrier_arrive(address(barriers.weights_free[used_weight]));
        barrier_arrive(address(barriers.input_free[used_input]));
      }

      // Lane l has pixels (2 warp + h, 8 m + l / 4), h, m in {0, 1}, channels 8 j + 2 (l % 4) and
      // the next.
      const int first_y = tile.y * kTile + 8 * g + 2 * warp, first_x = tile.x * kTile + row8;
      const float* bias = p.bias + tile.column * kColumns + 2 * quad;
      if constexpr (!kStaged) {
        const int step = p.mode == Mode::kUp ? 2 : 1;
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const int m = i >> 1, h = i & 1, y = first_y + h, x = first_x + 8 * m;
          if (y >= p.height || x >= p.width) continue;
#pragma unroll
          for (int j = 0; j < kColumns / 8; j++) {
#pragma unroll
            for (int e = 0; e < 2; e++) {
              const int c = tile.column * kColumns + 8 * j + 2 * quad + e;
              if (c < p.channels) {
                store_value(p.store, tile.picture, step * y + (tile.phase >> 1),
                            step * x + (tile.phase & 1), c,
                            sums[m][4 * j + 2 * h + e] + __ldg(bias + 8 * j + e));
              }
            }
          }
        }
      } else {
        const uint32_t staging = base + L::kStaging + g * 2 * kHalfBytes;
        const bool with_stats = p.stats.data != nullptr;
        float partial[32];
        bool inside[4];
        uint32_t at[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
          inside[i] = first_y + (i & 1) < p.height && first_x + 8 * (i >> 1) < p.width;
          at[i] = staging + ((2 * warp + (i & 1)) * kTile + 8 * (i >> 1) + row8) * 128 + quad * 4;
        }
        barrier_wait(address(barriers.staging_ready[g]), parity);
#pragma unroll
        for (int j = 0; j < 16; j++) {
          const float2 add_bias = __ldg(reinterpret_cast<const float2*>(bias + 8 * j));
          // The swizzle of TMA: chunk ^ (row % 8), and a row is a pixel.
          const uint32_t chunk = (j >> 3) * kHalfBytes + (((j & 7) ^ row8) << 4);
          float sum = 0, squares = 0;
#pragma unroll
          for (int i = 0; i < 4; i++) {
            const int m = i >> 1, h = i & 1;
            float2 v = make_float2(sums[m][4 * j + 2 * h] + add_bias.x,
                                   sums[m][4 * j + 2 * h + 1] + add_bias.y);
            if (p.has_residual) {
              uint32_t pair;
              asm volatile("ld.shared.u32 %0, [%1];" : "=r"(pair) : "r"(at[i] + chunk));
              const float2 r = unpack<T>(pair);
              v.x += r.x;
              v.y += r.y;
            }
            asm volatile("st.shared.u32 [%0], %1;" ::"r"(at[i] + chunk), "r"(pack<T>(v.x, v.y))
                         : "memory");
            if (inside[i]) {
              sum += v.x + v.y;
              squares = fmaf(v.x, v.x, fmaf(v.y, v.y, squares));
            }
          }
          partial[2 * j] = sum;
          partial[2 * j + 1] = squares;
        }
        if (with_stats) {
          add_halves<16>(partial, lane);
          add_halves<8>(partial, lane);
          add_halves<4>(partial, lane);
          const int unit = (lane >> 2) * 8 + quad;  // of block 2 (lane / 4); of the next: 4 more
          moments.sums[g][warp][unit] = make_float2(partial[0], partial[1]);
          moments.sums[g][warp][unit + 4] = make_float2(partial[2], partial[3]);
        }
        fence_to_async();
        barrier_arrive(address(barriers.staged[g]));
      }
      parity ^= 1;
      first_tile = false;
    }
  }
}

int64_t tiles_of(const Kernel& p) {
  return int64_t{p.pictures} * p.tiles_y * p.tiles_x * p.column_tiles * output_phases(p.mode);
}

Kernel describe(const Conv& conv) {
  Kernel p = {};
  const bool halved = conv.mode == Mode::kUp;
  p.mode = conv.mode;
  p.pictures = conv.y.n;
  p.height = halved ? conv.y.h / 2 : conv.y.h;
  p.width = halved ? conv.y.w / 2 : conv.y.w;
  p.in_height = conv.x.h;
  p.in_width = conv.x.w;
  p.rows_above = conv.rows_above;
  p.tiles_x = (p.width + kTile - 1) / kTile;
  p.tiles_y = (p.height + kTile - 1) / kTile;
  p.column_tiles = conv.weight_rows / conv.row_tile;
  p.weight_rows = conv.weight_rows * output_phases(conv.mode);
  p.slabs = slabs_of(conv.x.c);
  p.shortcut_slabs = conv.shortcut ? slabs_of(conv.shortcut.c) : 0;
  p.channels = conv.y.c;
  p.has_residual = static_cast<bool>(conv.residual);
  p.to_store = conv.row_tile != 128;
  p.bias = conv.bias;
  p.affine = conv.affine;
  p.store = conv.store;
  p.stats = conv.stats;
  return p;
}

template <class T, int kColumns, bool kNorm, int kSteps>
void launch_kernel(const Kernel& p, const Machine& machine) {
  const int64_t tiles = tiles_of(p);
  if (tiles > INT32_MAX) {
    fail(ErrorCode::kUnsupported, "the batch is too large for the GPU: ", tiles, " tiles");
  }
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(tiles, machine.processors));
  const Shape3 shape = {dim3(blocks), dim3(kThreads), Layout<kColumns>::kBytes};
  launch("hopper_conv", hopper_conv_kernel<T, kColumns, kNorm, kSteps>, shape, machine, p);
}

template <class T, int kColumns>
void launch_columns(const Kernel& p, bool few_channels, const Machine& machine) {
  if (p.affine) {
    launch_kernel<T, kColumns, true, 4>(p, machine);
  } else if (few_channels) {
    launch_kernel<T, kColumns, false, 1>(p, machine);
  } else {
    launch_kernel<T, kColumns, false, 4>(p, machine);
  }
}

template <class T>
void launch_element(const Kernel& p, int row_tile, bool few_channels, const Machine& machine) {
  switch (row_tile) {
    case 8:
      return launch_columns<T, 8>(p, few_channels, machine);
    case 32:
      return launch_columns<T, 32>(p, few_channels, machine);
    case 128:
      return launch_columns<T, 128>(p, few_channels, machine);
    default:
      fail(ErrorCode::kInternal, "hopper_conv has no tiles of ", row_tile, " channels");
  }
}

}  // namespace

void hopper_conv(const Conv& conv, const Machine& machine) {
  Kernel p = describe(conv);
  const Element e = conv.element;
  const int side = kTile + box_margin(p.mode);
  for (int i = 0; i < input_phases(p.mode); i++) {
    p.x[i] = picture_map(e, conv.x, side, side, p.mode == Mode::kDown ? i : -1);
  }
  if (conv.shortcut) p.shortcut = picture_map(e, conv.shortcut, kTile, kTile);
  const int blocks = p.slabs * taps_per_slab(p.mode) + p.shortcut_slabs;
  p.weights = weight_map(e, conv.weights, int64_t{blocks} * p.weight_rows, conv.row_tile);
  if (!p.to_store) {
    for (int i = 0; i < output_phases(p.mode); i++) {
      p.y[i] = picture_map(e, conv.y, kTile, 8, p.mode == Mode::kUp ? i : -1);
    }
    if (conv.residual) p.residual = picture_map(e, conv.residual, kTile, 8);
    // Half a slab of a 3x3: 4 of 9 taps.
    p.stagger = tiles_of(p) >= 2 * machine.processors ? 4000 : 0;
  }
  const bool few_channels = conv.x.c <= 16 && (!conv.shortcut || conv.shortcut.c <= 16);
  if (e == Element::kF16) {
    launch_element<f16>(p, conv.row_tile, few_channels, machine);
  } else {
    launch_element<bf16>(p, conv.row_tile, few_channels, machine);
  }
}

}  // namespace calotype::cuda
