// Attention on sm_90a as two matrix products: weights P = 2^(Q X^T - bound), then P X scaled by the
// sums of P's rows. K and V are the same tensor X, see cuda/attention.h.
//
// At 1024x1024 each product is 2 x 16384^2 x 512 = 0.27 TFLOP, 0.4 ms; P is 512 MiB, written and
// read once: 0.36 ms of memory traffic that hides behind them.
#include <cuda.h>

#include "cuda/kernels/launch.cuh"
#include "cuda/kernels/ptx.cuh"
#include "cuda/kernels/tensor_map.h"

namespace calotype::cuda {
namespace {

using T = bf16;

constexpr int kRows = 256, kColumns = 128;  // of a tile: two groups of 128 x 128
constexpr int kStages = 3;
constexpr int kABytes = kRows * 128, kBBytes = kColumns * 128, kStageBytes = kABytes + kBBytes;
constexpr int kHalfBytes = 128 * 128;  // staged output: 128 rows of 64 columns
constexpr int kBytes = kStages * kStageBytes + 4 * kHalfBytes + 1024;
constexpr int kThreads = 384;
// (40 + 2 * 232) * 128 = 64512 registers of 65536.
constexpr int kLoadRegisters = 40, kMultiplyRegisters = 232;

struct Kernel {
  CUtensorMap a, b, c;
  int pictures, rows, columns, depth;  // c is [pictures][rows][columns]
  int tiles_down, tiles_across;
  const float* row_values;  // [pictures][rows]: bounds, or factors
  float* sums;              // [tiles_across][pictures * rows]
};

struct TileIndex {
  int row, column, picture;

  // In groups of eight tiles down, across slower: the operands of the tiles that run together stay
  // in L2.
  __device__ TileIndex(const Kernel& p, int t) {
    const int per_picture = p.tiles_down * p.tiles_across;
    picture = t / per_picture;
    t -= picture * per_picture;
    const int group = t / (8 * p.tiles_across), rest = t - group * 8 * p.tiles_across;
    const int height = min(8, p.tiles_down - group * 8);
    column = rest / height;
    row = group * 8 + rest - column * height;
  }
};

struct Barriers {
  uint64_t loaded[kStages], free[kStages];
};

// kWeights: c = 2^(a b^T - row value), sums of its rows per tile; else c = a b^T * row value.
template <bool kWeights>
__global__ void __launch_bounds__(kThreads, 1)
    hopper_attention_kernel(const __grid_constant__ Kernel p) {
  extern __shared__ uint8_t dynamic[];
  __shared__ __align__(8) Barriers barriers;
  const uint32_t base = (shared_address(dynamic) + 1023) & ~1023u;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; i++) {
      barrier_init(shared_address(&barriers.loaded[i]), 1);
      barrier_init(shared_address(&barriers.free[i]), 8);  // warps that multiply
    }
    barrier_fence_init();
  }
  __syncthreads();
  begin_grid();

  const int group = __shfl_sync(~0u, threadIdx.x >> 7, 0);  // known to be the same in a warp
  const int tiles = p.pictures * p.tiles_down * p.tiles_across;
  const int steps = (p.depth + kSlab - 1) / kSlab;
  if (group == 0) {
    shrink_registers<kLoadRegisters>();
    if (threadIdx.x != 0) return;
    Ring<kStages> ring(1);
    for (int t = blockIdx.x; t < tiles; t += gridDim.x) {
      const TileIndex tile(p, t);
      for (int k = 0; k < steps; k++) {
        const uint32_t loaded = shared_address(&barriers.loaded[ring.stage]);
        const uint32_t to = base + ring.stage * kStageBytes;
        barrier_wait(shared_address(&barriers.free[ring.stage]), ring.parity);
        barrier_expect(loaded, kStageBytes);
        // Queries and keys are planar, P and the transposed values are dense.
        const int column = kWeights ? 0 : k * kSlab, plane = kWeights ? k : 0;
        tma_load(to, &p.a, loaded, column, tile.row * kRows, tile.picture, plane);
        tma_load(to + kABytes, &p.b, loaded, column, tile.column * kColumns, tile.picture, plane);
        ring.next();
      }
    }
    return;
  }

  grow_registers<kMultiplyRegisters>();
  const int g = group - 1, thread = threadIdx.x & 127, lane = threadIdx.x & 31;
  const int warp = (threadIdx.x >> 5) & 3, quad = lane & 3, row8 = lane >> 2;
  const uint32_t staging = base + kStages * kStageBytes + g * 2 * kHalfBytes;
  constexpr uint32_t kForm = descriptor_form(8 * 128);
  float acc[2][kColumns / 2];
  Ring<kStages> ring(0);
  bool staged = false;
  for (int t = blockIdx.x; t < tiles; t += gridDim.x) {
    const TileIndex tile(p, t);
    // This lane's rows: 64 m + 16 warp + 8 h + lane / 4 of the group's 128.
    const int first_row = tile.row * kRows + g * 128 + warp * 16 + row8;
    const int64_t rows_before = int64_t{tile.picture} * p.rows;
    float value[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int row = first_row + (i >> 1) * 64 + (i & 1) * 8;
      value[i] = row < p.rows ? p.row_values[rows_before + row] : 0;
    }
    int used = -1, add = 0;
    for (int k = 0; k < steps; k++) {
      const uint32_t stage = base + ring.stage * kStageBytes;
      const uint32_t a0 = descriptor_start(stage + g * (kABytes / 2));
      const uint32_t a1 = descriptor_start(stage + g * (kABytes / 2) + 64 * 128);
      const uint32_t b = descriptor_start(stage + kABytes);
      barrier_wait(shared_address(&barriers.loaded[ring.stage]), ring.parity);
      wgmma_fence();
#pragma unroll
      for (int i = 0; i < kSlab / 16; i++) {
        const uint32_t along = i * kDescriptorStep;
        const uint64_t columns = descriptor(b + along, kForm);
        wgmma<T, kColumns>(acc[0], descriptor(a0 + along, kForm), columns, add);
        wgmma<T, kColumns>(acc[1], descriptor(a1 + along, kForm), columns, add);
        add = 1;
      }
      wgmma_commit();
      wgmma_wait<1>();
      if (lane == 0 && used >= 0) barrier_arrive(shared_address(&barriers.free[used]));
      // By now the last tile's stores have read the staged output.
      if (staged && k == (steps > 2 ? 2 : 0) && thread == 0) tma_wait_read();
      used = ring.stage;
      ring.next();
    }
    wgmma_wait<0>();
    if (lane == 0) barrier_arrive(shared_address(&barriers.free[used]));

    named_barrier(g + 1, 128);  // thread 0 knows that the staged output is free
    float sum[4] = {0, 0, 0, 0};
    const bool last_column = tile.column == p.tiles_across - 1;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int m = i >> 1, h = i & 1;
      const uint32_t at = staging + (64 * m + 16 * warp + 8 * h + row8) * 128 + quad * 4;
#pragma unroll
      for (int j = 0; j < kColumns / 8; j++) {
        float low = acc[m][4 * j + 2 * h], high = acc[m][4 * j + 2 * h + 1];
        if constexpr (kWeights) {
          low = exp2_fast(low - value[i]);
          high = exp2_fast(high - value[i]);
        } else {
          low *= value[i];
          high *= value[i];
        }
        const uint32_t pair = pack<T>(low, high);
        asm volatile(
            "st.shared.u32 [%0], %1;" ::"r"(at + (j >> 3) * kHalfBytes + (((j & 7) ^ row8) << 4)),
            "r"(pair)
            : "memory");
        if constexpr (kWeights) {  // of what the second product will read
          const float2 rounded = unpack<T>(pair);
          const int column = tile.column * kColumns + 8 * j + 2 * quad;
          if (!last_column || column < p.columns) sum[i] += rounded.x;
          if (!last_column || column + 1 < p.columns) sum[i] += rounded.y;
        }
      }
    }
    fence_to_async();
    named_barrier(g + 1, 128);
    if (thread == 0) {
      for (int half = 0; half < 2; half++) {
        const int plane = 2 * tile.column + half;
        if (plane * kSlab < p.columns) {
          tma_store(staging + half * kHalfBytes, &p.c, kWeights ? plane * kSlab : 0,
                    tile.row * kRows + g * 128, tile.picture, kWeights ? 0 : plane);
        }
      }
      tma_commit();
    }
    staged = true;
    if constexpr (kWeights) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        sum[i] += __shfl_xor_sync(~0u, sum[i], 1);
        sum[i] += __shfl_xor_sync(~0u, sum[i], 2);
        const int row = first_row + (i >> 1) * 64 + (i & 1) * 8;
        if (quad == 0 && row < p.rows) {
          p.sums[int64_t{tile.column} * p.pictures * p.rows + rows_before + row] = sum[i];
        }
      }
    }
  }
  if (thread == 0) tma_wait();
}

int tiles_along(int size, int tile) { return (size + tile - 1) / tile; }

template <bool kWeights>
void launch_product(const char* name, const Kernel& p, const Machine& machine) {
  const int64_t tiles = int64_t{p.pictures} * p.tiles_down * p.tiles_across;
  const int64_t grid = tiles < machine.processors ? tiles : machine.processors;
  launch(name, hopper_attention_kernel<kWeights>,
         {dim3(static_cast<unsigned>(grid)), dim3(kThreads), kBytes}, machine, p);
}

}  // namespace

void hopper_attention(const BoundedAttention& call, const Machine& machine) {
  attention_bounds(call, machine);
  const Element e = Element::kBF16;
  const int tokens = static_cast<int>(call.x.pixels()), channels = call.x.c;
  const auto queries = [&](int box_rows) {
    return token_map(e, call.q, call.first_picture, call.pictures, call.first_row, call.rows,
                     box_rows);
  };
  const auto p_map = [&](int box_rows) {
    return matrix_map(e, call.p, call.pictures, int64_t{call.rows} * call.pitch, call.rows, tokens,
                      call.pitch, box_rows);
  };
  Kernel weights = {};
  weights.a = queries(kRows);
  weights.b = token_map(e, call.x, call.first_picture, call.pictures, 0, tokens, kColumns);
  weights.c = p_map(128);
  weights.pictures = call.pictures;
  weights.rows = call.rows;
  weights.columns = tokens;
  weights.depth = channels;
  weights.tiles_down = tiles_along(call.rows, kRows);
  weights.tiles_across = tiles_along(tokens, kColumns);
  weights.row_values = call.bounds;
  weights.sums = call.sums;
  launch_product<true>("attention_weights", weights, machine);

  attention_scales(call, weights.tiles_across, machine);

  Kernel values = {};
  const int64_t transposed = int64_t{channels} * call.pitch;
  values.a = p_map(kRows);
  values.b = matrix_map(e, static_cast<const T*>(call.transposed) + call.first_picture * transposed,
                        call.pictures, transposed, channels, tokens, call.pitch, kColumns);
  values.c = queries(128);
  values.pictures = call.pictures;
  values.rows = call.rows;
  values.columns = channels;
  values.depth = tokens;
  values.tiles_down = tiles_along(call.rows, kRows);
  values.tiles_across = tiles_along(channels, kColumns);
  values.row_values = call.scales;
  launch_product<false>("attention_values", values, machine);
}

}  // namespace calotype::cuda
