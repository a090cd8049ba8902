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
// A shortcut is read through the memory of the staged output, which is free until the tile is done:
// two slabs at a time, multiplied between the slabs of the input, so that loading, which one tap a
// slab leaves little time for, is spread over the tile.
//
// e4m3 (kFp8) lies in the first half of each pixel's 128 bytes, written over what it was made of,
// so that boxes and the shifts of taps are the same; a block of weights is half as large, and takes
// half the time.
//
// Where tiles are few (hopper_splits), a cluster of two blocks computes one, half of the slabs
// each; then group g of block 1 - g sends its sums to group g of block g, which finishes.
//
// Count per slab and tile: 9 taps x 4 steps x 4 wgmma (m64n128k16, 64 cycles each: 2 x 64 x 128 x
// 16 FLOP at 4096 FLOP a cycle) = 9216 cycles. Activating 324 x 64 values takes 1296 cycles of the
// special function units (16 a cycle), loading 41 KiB from L2 about 650 (64 bytes a cycle): both
// are hidden. wgmma reads 2 KiB of A and 4 KiB of B in 64 cycles: 96 of shared memory's 128 bytes a
// cycle.
#include <algorithm>
#include <type_traits>

#include "core/cat.h"
#include "cuda/kernels/hopper_activate.cuh"
#include "cuda/kernels/hopper_conv.cuh"
#include "cuda/kernels/hopper_moments.cuh"
#include "cuda/kernels/launch.cuh"
#include "cuda/kernels/store.cuh"
#include "cuda/kernels/tensor_map.h"

namespace calotype::cuda {
namespace {

template <class T, int kColumns, bool kNorm, int kSteps, bool kSplit, bool kFp8>
__global__ void __launch_bounds__(kThreads, 1)
    hopper_conv_kernel(const __grid_constant__ HopperConv p) {
  using L = Layout<kColumns>;
  constexpr int kInputStages = L::kInputStages;
  constexpr bool kStaged = kColumns == 128;
  static_assert(kStaged || (!kSplit && !kFp8));
  static_assert(kNorm || !kFp8);
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
      barrier_init(address(barriers.staging_ready[i]), 32);
      barrier_init(address(barriers.staged[i]), 128);
      barrier_init(address(barriers.pair_free[i]), 4);
    }
    barrier_init(address(barriers.may_send), 8);
    barrier_init(address(barriers.received), 128);
    barrier_fence_init();
    tma_prefetch_map(&p.weights);
    tma_prefetch_map(&p.x[0]);
  }
  if constexpr (kSplit) {
    cluster_sync();
  } else {
    __syncthreads();
  }
  let_next_grid_start();

  // The same in a warp, and known to be: what follows from it can live in uniform registers.
  const int group = __shfl_sync(~0u, threadIdx.x >> 7, 0);
  const int columns = p.column_tiles * output_phases(p.mode);
  const int tiles = p.pictures * p.tiles_y * p.tiles_x * columns;
  // The slabs of the input that this block multiplies, and its tiles.
  constexpr int kBlocks = kSplit ? 2 : 1;
  const int rank = kSplit ? static_cast<int>(cluster_rank()) : 0;
  const int all_slabs = p.slabs * input_phases(p.mode);
  const int first_slab = kSplit && rank == 1 ? all_slabs / 2 : 0;
  const int end_slab = kSplit && rank == 0 ? all_slabs / 2 : all_slabs;
  const int first_tile = blockIdx.x / kBlocks, tile_step = gridDim.x / kBlocks;
  const int side = kTile + box_margin(p.mode);

  if (group == 0) {
    shrink_registers<kLoadRegisters>();
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    if (warp == 0 && lane == 0) {  // weights: they depend on no other grid
      const int taps = taps_per_slab(p.mode), main_blocks = p.slabs * taps;
      Ring<kWeightStages> ring(1);
      const auto load = [&](const CUtensorMap& map, int bytes, int first, int count,
                            int column_row) {
        int row = first * p.weight_rows + column_row;
        for (int k = 0; k < count; k++, row += p.weight_rows) {
          const uint32_t loaded = address(barriers.weights_loaded[ring.stage]);
          barrier_wait(address(barriers.weights_free[ring.stage]), ring.parity);
          barrier_expect(loaded, bytes);
          tma_load(weights + ring.stage * L::kWeightBytes, &map, loaded, 0, row);
          ring.next();
        }
      };
      constexpr int kBytes = kFp8 ? L::kWeightBytes / 2 : L::kWeightBytes;
      for (int t = first_tile; t < tiles; t += tile_step) {
        const int column_row = t % columns * kColumns;
        if (p.pairs == 0) {
          const int first = first_slab * taps;  // kSplit: taps a slab, else 0
          load(p.weights, kBytes, first, kSplit ? (end_slab - first_slab) * taps : main_blocks,
               column_row);
          continue;
        }
        // Every phase of kDown has its own count of taps; a shortcut comes with kSame alone.
        int shortcut = 0;
        for (int s = 0; s < all_slabs; s++) {
          load(p.weights, kBytes, s * taps, taps, column_row);
          const int count =
              min(2 * pairs_after(s, all_slabs, p.pairs), p.shortcut_slabs - shortcut);
          load(p.shortcut_weights, L::kWeightBytes, shortcut, count, column_row);
          shortcut += count;
        }
      }
    } else if (warp == 1 && lane == 0) {  // boxes of the input
      wait_for_previous_grid();
      Ring<kInputStages> ring(1);
      for (int t = first_tile; t < tiles; t += tile_step) {
        const TileIndex tile(p, t);
        const int origin = box_origin(p.mode);
        const int x = tile.x * kTile + origin, y = tile.y * kTile + origin + p.rows_above;
        for (int s = first_slab; s < end_slab; s++) {
          const int phase = s / p.slabs;
          const uint32_t loaded = address(barriers.loaded[ring.stage]);
          barrier_wait(address(barriers.input_free[ring.stage]), ring.parity);
          barrier_expect(loaded, side * side * 128);
          tma_load(base + ring.stage * kStageBytes, &p.x[phase], loaded, 0, x, y, tile.picture,
                   s - phase * p.slabs);
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
      uint32_t parity = 0, pair_parity = 0;
      int next_picture = 0;
      const int end = kSplit && g != rank ? 0 : tiles;
      for (int t = first_tile; t < end; t += tile_step, parity ^= 1) {
        const TileIndex tile(p, t);
        const int plane = 2 * tile.column, halves = p.channels > (plane + 1) * kSlab ? 2 : 1;
        const int x = tile.x * kTile, y = tile.y * kTile + 8 * g;
        // Every lane arrives: each has read statistics of the tile before.
        const auto load = [&](int first_plane, int count) {
          if (lane != 0) return barrier_arrive(ready);
          barrier_expect(ready, count * kHalfBytes);
          for (int h = 0; h < count; h++) {
            tma_load(staging + h * kHalfBytes, &p.beside, ready, 0, x, y, tile.picture,
                     first_plane + h);
          }
        };
        for (int pair = 0; pair < p.pairs; pair++) {
          if (pair > 0) {
            barrier_wait_asleep(address(barriers.pair_free[g]), pair_parity, kOutputSleep);
            pair_parity ^= 1;
          }
          load(2 * pair, min(2, p.shortcut_slabs - 2 * pair));
        }
        if (p.has_residual) load(plane, halves);
        if (p.pairs == 0 && !p.has_residual) barrier_arrive(ready);
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
            flush_moments(p.stats, p.column_tiles, moments, g, lane, next_picture);
          }
          const int rows = min(8, p.height - y), columns_inside = min(kTile, p.width - x);
          add_tile(moments, g, tile.column, rows * columns_inside, lane);
        }
        if (lane == 0) tma_wait_read();
        __syncwarp();
      }
      for (; with_stats && next_picture < p.pictures; next_picture++) {
        flush_moments(p.stats, p.column_tiles, moments, g, lane, next_picture);
      }
      if (lane == 0) tma_wait();
    }
  } else if (group == 1) {
    shrink_registers<kActivateRegisters>();
    if constexpr (kNorm) {
      wait_for_previous_grid();
      Ring<kInputStages> ring(0);
      for (int t = first_tile; t < tiles; t += tile_step) {
        const TileIndex tile(p, t);
        const int origin = box_origin(p.mode);
        for (int s = first_slab; s < end_slab; s++) {
          const int phase = s / p.slabs;
          const bool halved = p.mode == Mode::kDown;
          const int height = halved ? (p.in_height - (phase >> 1) + 1) / 2 : p.in_height;
          const int width = halved ? (p.in_width - (phase & 1) + 1) / 2 : p.in_width;
          activate_slab<T, 128, kFp8>(stages + ring.stage * kStageBytes,
                                      p.affine.data + int64_t{tile.picture} * p.affine.stride +
                                          (s - phase * p.slabs) * kSlab,
                                      side, tile.y * kTile + origin + p.rows_above,
                                      tile.x * kTile + origin, height, width,
                                      address(barriers.loaded[ring.stage]), ring.parity);
          fence_to_async();
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
    float sums[2][kColumns / 2];
    Ring<kInputStages> input(0);
    Ring<kWeightStages> weight(0);
    uint32_t ready_parity = 0;
    bool is_first = true;
    for (int t = first_tile; t < tiles; t += tile_step) {
      const TileIndex tile(p, t);
      // What the block before has read: stages of weights and input, in one register.
      constexpr int kWeights = 1 << 4, kInput = 1 << 5, kPair = 1 << 6;
      int used = 0, add = 0, pair = 0;
      const auto let_go = [&] {
        if (lane != 0) return;
        if (used & kWeights) barrier_arrive(address(barriers.weights_free[used & 3]));
        if (used & kInput) barrier_arrive(address(barriers.input_free[used >> 2 & 3]));
        if (used & kPair) barrier_arrive(address(barriers.pair_free[g]));
      };
      // One tap of a slab; `left`: the first pixel of the left eight columns.
      const auto multiply = [&](uint32_t left, uint32_t form, auto fp8) {
        const uint32_t a0 = descriptor_start(left);
        const uint32_t a1 = descriptor_start(left + 8 * 128);
        const uint32_t b = descriptor_start(weights + weight.stage * L::kWeightBytes);
        barrier_wait(address(barriers.weights_loaded[weight.stage]), weight.parity);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < (fp8 ? 2 : kSteps); k++) {
          const uint32_t along = k * kDescriptorStep;
          const uint64_t columns =
              descriptor(b + along, fp8 ? descriptor_form64(8 * 64) : descriptor_form(8 * 128));
          const uint64_t rows0 = descriptor(a0 + along, form);
          const uint64_t rows1 = descriptor(a1 + along, form);
          if constexpr (fp8) {
            wgmma_fp8(sums[0], rows0, columns, add);
            wgmma_fp8(sums[1], rows1, columns, add);
          } else {
            wgmma<T, kColumns>(sums[0], rows0, columns, add);
            wgmma<T, kColumns>(sums[1], rows1, columns, add);
          }
          add = 1;
        }
        wgmma_commit();
        wgmma_wait<1>();  // the block before this one is done
        let_go();
        used = weight.stage | kWeights;
        weight.next();
      };
      const int pitch = side * 128;
      for (int s = first_slab; s < end_slab; s++) {
        const Taps taps = taps_of(p.mode, s / p.slabs, tile.phase);
        const uint32_t form = descriptor_form(pitch);
        barrier_wait(address(kNorm ? barriers.ready[input.stage] : barriers.loaded[input.stage]),
                     input.parity);
        // The second group starts half a slab late, so that the two do not write their tiles at
        // the same time.
        if (is_first && s == 0 && g == 1 && p.stagger > 0) {
          const long long start = clock64();
          while (clock64() - start < p.stagger) {
          }
        }
        const uint32_t box = base + input.stage * kStageBytes + g * 8 * pitch;
        for (int i = 0; i < taps.ny; i++) {
          for (int j = 0; j < taps.nx; j++) {
            multiply(box + (taps.oy + i) * pitch + (taps.ox + j) * 128, form,
                     std::bool_constant<kFp8>());
          }
        }
        used |= input.stage << 2 | kInput;
        input.next();
        if constexpr (kStaged && !kSplit) {
          for (int end = pair + pairs_after(s, all_slabs, p.pairs); pair < end; pair++) {
            const uint32_t slab = base + L::kStaging + g * 2 * kHalfBytes;
            if (used & kPair) {  // the one before it is in its place, and nothing comes between
              wgmma_wait<0>();
              let_go();
              used = 0;
            }
            barrier_wait(address(barriers.staging_ready[g]), ready_parity);
            ready_parity ^= 1;
            multiply(slab, descriptor_form(kTile * 128), std::false_type());
            if (2 * pair + 1 < p.shortcut_slabs) {
              multiply(slab + kHalfBytes, descriptor_form(kTile * 128), std::false_type());
            }
            if (pair + 1 < p.pairs) used |= kPair;
          }
        }
      }
      wgmma_wait<0>();
      let_go();
      is_first = false;
      if constexpr (kSplit) {
        // Both groups of the other block must have left their stages before they are written over.
        if (lane == 0) barrier_arrive_remote(of_block(address(barriers.may_send), rank ^ 1));
        const uint32_t inbox = base + (threadIdx.x & 127) * 16;
        if (g != rank) {
          barrier_wait_cluster(address(barriers.may_send), 0);
          const uint32_t there = of_block(inbox, g);
#pragma unroll
          for (int i = 0; i < 32; i++) {
            const float* v = &sums[i / 16][i % 16 * 4];
            store_remote(there + i * 2048, make_float4(v[0], v[1], v[2], v[3]));
          }
          barrier_arrive_remote(of_block(address(barriers.received), g));
          break;  // there is one tile
        }
        barrier_wait_cluster(address(barriers.received), 0);
#pragma unroll
        for (int i = 0; i < 32; i++) {
          float4 v;
          asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                       : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                       : "r"(inbox + i * 2048));
          float* to = &sums[i / 16][i % 16 * 4];
          to[0] += v.x;
          to[1] += v.y;
          to[2] += v.z;
          to[3] += v.w;
        }
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
        [[maybe_unused]] const float* factors = p.scale + tile.column * kColumns + 2 * quad;
        float partial[32];
        bool inside[4];
        uint32_t at[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
          inside[i] = first_y + (i & 1) < p.height && first_x + 8 * (i >> 1) < p.width;
          at[i] = staging + ((2 * warp + (i & 1)) * kTile + 8 * (i >> 1) + row8) * 128 + quad * 4;
        }
        if (p.pairs == 0) {  // else the last pair's slabs have been waited for, and read
          barrier_wait(address(barriers.staging_ready[g]), ready_parity);
          ready_parity ^= 1;
        }
#pragma unroll
        for (int j = 0; j < 16; j++) {
          const float2 add_bias = __ldg(reinterpret_cast<const float2*>(bias + 8 * j));
          float2 scale = make_float2(1, 1);
          if constexpr (kFp8) scale = __ldg(reinterpret_cast<const float2*>(factors + 8 * j));
          // The swizzle of TMA: chunk ^ (row % 8), and a row is a pixel.
          const uint32_t chunk = (j >> 3) * kHalfBytes + (((j & 7) ^ row8) << 4);
          float sum = 0, squares = 0;
#pragma unroll
          for (int i = 0; i < 4; i++) {
            const int m = i >> 1, h = i & 1;
            float2 v = make_float2(fmaf(sums[m][4 * j + 2 * h], scale.x, add_bias.x),
                                   fmaf(sums[m][4 * j + 2 * h + 1], scale.y, add_bias.y));
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
    }
  }
  if constexpr (kSplit) cluster_sync();  // no block leaves while the other may write to it
}

int64_t tiles_of(const HopperConv& p) {
  return int64_t{p.pictures} * p.tiles_y * p.tiles_x * p.column_tiles * output_phases(p.mode);
}

HopperConv describe(const Conv& conv) {
  HopperConv p = {};
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
  p.pairs = (p.shortcut_slabs + 1) / 2;
  p.channels = conv.y.c;
  p.has_residual = static_cast<bool>(conv.residual);
  p.to_store = conv.row_tile != 128;
  p.bias = conv.bias;
  p.scale = conv.scale;
  p.affine = conv.affine;
  p.store = conv.store;
  p.stats = conv.stats;
  return p;
}

bool splits(const HopperConv& p, const Machine& machine) {
  return !p.to_store &&
         hopper_splits(p.mode, tiles_of(p), p.slabs, p.shortcut_slabs, machine.processors);
}

template <class T, int kColumns, bool kNorm, int kSteps, bool kSplit = false, bool kFp8 = false>
void launch_kernel(const HopperConv& p, const Machine& machine) {
  const int64_t tiles = tiles_of(p);
  if (tiles > INT32_MAX) {
    fail(ErrorCode::kUnsupported, "the batch is too large for the GPU: ", tiles, " tiles");
  }
  const auto blocks = static_cast<unsigned>(hopper_blocks(tiles, kSplit, machine.processors));
  const Shape3 shape = {dim3(blocks), dim3(kThreads), Layout<kColumns>::kBytes, kSplit ? 2u : 1u};
  launch("hopper_conv", hopper_conv_kernel<T, kColumns, kNorm, kSteps, kSplit, kFp8>, shape,
         machine, p);
}

template <class T, int kColumns>
void launch_columns(const HopperConv& p, bool few_channels, const Machine& machine) {
  if constexpr (kColumns == 128) {
    if (splits(p, machine)) {
      return p.affine ? launch_kernel<T, kColumns, true, 4, true>(p, machine)
                      : launch_kernel<T, kColumns, false, 4, true>(p, machine);
    }
  }
  if (p.affine) {
    launch_kernel<T, kColumns, true, 4>(p, machine);
  } else if (few_channels) {
    launch_kernel<T, kColumns, false, 1>(p, machine);
  } else {
    launch_kernel<T, kColumns, false, 4>(p, machine);
  }
}

template <class T>
void launch_element(const HopperConv& p, int row_tile, bool few_channels, const Machine& machine) {
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
  HopperConv p = describe(conv);
  if (conv.shortcut && (p.to_store || conv.residual || p.mode != Mode::kSame)) {
    fail(ErrorCode::kInternal, "hopper_conv has shortcuts of 3x3 convolutions between activations");
  }
  const Element e = conv.element;
  const int side = kTile + box_margin(p.mode);
  for (int i = 0; i < input_phases(p.mode); i++) {
    p.x[i] = picture_map(e, conv.x, side, side, p.mode == Mode::kDown ? i : -1);
  }
  const int64_t rows = int64_t{p.slabs} * taps_per_slab(p.mode) * p.weight_rows;
  const bool fp8 = conv.scale != nullptr;
  p.weights = fp8 ? fp8_weight_map(conv.weights, rows, conv.row_tile)
                  : weight_map(e, conv.weights, rows, conv.row_tile);
  if (conv.shortcut) {
    const char* beside = static_cast<const char*>(conv.weights) + rows * kSlab * (fp8 ? 1 : 2);
    p.shortcut_weights =
        weight_map(e, beside, int64_t{p.shortcut_slabs} * p.weight_rows, conv.row_tile);
  }
  if (!p.to_store) {
    for (int i = 0; i < output_phases(p.mode); i++) {
      p.y[i] = picture_map(e, conv.y, kTile, 8, p.mode == Mode::kUp ? i : -1);
    }
    if (conv.residual) p.beside = picture_map(e, conv.residual, kTile, 8);
    if (conv.shortcut) p.beside = picture_map(e, conv.shortcut, kTile, 8);
    // Half a slab of a 3x3: 4 of 9 taps.
    p.stagger = tiles_of(p) >= 2 * machine.processors ? 4000 : 0;
  }
  const bool few_channels = conv.x.c <= 16 && (!conv.shortcut || conv.shortcut.c <= 16);
  if (fp8) {
    if (e != Element::kBF16 || p.to_store || p.mode != Mode::kSame || !p.affine) {
      fail(ErrorCode::kInternal, "hopper_conv has e4m3 for normed 3x3 convolutions in bf16");
    }
    splits(p, machine) ? launch_kernel<bf16, 128, true, 4, true, true>(p, machine)
                       : launch_kernel<bf16, 128, true, 4, false, true>(p, machine);
  } else if (e == Element::kF16) {
    launch_element<f16>(p, conv.row_tile, few_channels, machine);
  } else {
    launch_element<bf16>(p, conv.row_tile, few_channels, machine);
  }
}

}  // namespace calotype::cuda
