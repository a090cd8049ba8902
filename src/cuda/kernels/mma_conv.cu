// Convolution on the tensor cores of any GPU since sm_80: mma.sync, cp.async.
//
// A tile is 16 (or 8) rows of 16 pixels by 128 (or 32) output channels. As in hopper_conv, a slab
// of 64 input channels is loaded once as a box with its margin, activated where it lies, and read
// shifted by every tap. Warps that multiply do nothing else until their tile is done; others load
// boxes and weights ahead of them, and activate. Blocks stay and take one tile after the other, so
// that the next one's first box is there when the last one's results have been written.
//
// What bounds it on sm_90, where an mma of 16 x 8 x 16 takes a quarter of a multiprocessor some 6.4
// cycles: a warp of 64 x 64 reads 4 KiB of shared memory, 32 cycles, for 32 mma, 51 cycles of the
// multiprocessor. (32 x 64 would be 24 for 26.) Of a slab of 3x3, 256 pixels by 128 channels:
// 14,750 cycles of mma, 9,220 of reading, 1,150 of writing weights, 970 of boxes, and 14 bytes a
// cycle from L2.
#include "cuda/kernels/mma_load.cuh"
#include "cuda/kernels/moments.cuh"

namespace calotype::cuda {
namespace {

// Walks over the blocks of weights of a tile: (slab, tap).
struct Walk {
  int group, slabs, x, y, nx, ny, oy, ox;  // slabs: left of the group
  Cursor weights{0}, boxes{0};

  __device__ __forceinline__ void begin(const Stages& stages, int output_phase) {
    group = x = y = 0;
    const bool up = stages.up;
    oy = up ? output_phase >> 1 : 0;
    ox = up ? output_phase & 1 : 0;
    read(stages);
  }
  __device__ __forceinline__ void read(const Stages& stages) {
    const Group& g = stages.groups[group];
    slabs = g.slabs;
    nx = g.nx;
    ny = g.ny;
  }
  // To the next block; true if it is in the next slab. slabs is 0 after the last.
  __device__ __forceinline__ bool next(const Stages& stages) {
    weights.next(stages.weights);
    if (++x < nx) return false;
    x = 0;
    if (++y < ny) return false;
    y = 0;
    boxes.next(stages.boxes);
    if (--slabs == 0 && ++group < stages.group_count) {
      oy = ox = 0;
      read(stages);
    }
    return true;
  }
};

// The moments of the tile's pairs of channels: per lane, per warp, then over the warps of a column.
template <class L>
__device__ void tile_moments(const Portable& p, const PortableTile& tile,
                             float (&mean)[L::kColumnTiles], float (&m2)[L::kColumnTiles],
                             float count, int down, int across, int turn) {
  // Two, by turns: the barrier of the next tile tells that all have read this one's.
  __shared__ Moments of_warp[2][L::kWarpsDown][L::kColumns / 2];
  const int lane = threadIdx.x & 31;
  count = merge_warp(mean, m2, count, lane);
#pragma unroll
  for (int k = 0; k < L::kColumnTiles / 8; k++) {
    const int j = first_block<L::kColumnTiles>(lane) + k;
    const int unit = (across * L::kWarpColumns + lane_channel(j >> 2, lane & 3)) / 2 + (j & 3);
    of_warp[turn][down][unit] = {count, mean[k], m2[k]};
  }
  named_barrier(1, L::kMultiplyingThreads);
  for (int i = threadIdx.x; i < L::kColumns / 2; i += L::kMultiplyingThreads) {
    const int unit = tile.column * (L::kColumns / 2) + i;
    if (unit >= p.stats.units) continue;
    Moments total = of_warp[turn][0][i];
    for (int w = 1; w < L::kWarpsDown; w++) total = merge(total, of_warp[turn][w][i]);
    p.stats.at(tile.picture, unit, tile.number) = total;
  }
}

// Lane l has the pixels l / 4 and l / 4 + 8 of a row.
template <class L>
__device__ __forceinline__ void finish_tile(const Portable& p, const PortableTile& tile,
                                            float (&sums)[L::kRowTiles][L::kColumnTiles][4],
                                            int down, int across, int turn) {
  using T = typename L::T;
  const int lane = threadIdx.x & 31, quad = lane & 3, row8 = lane >> 2;
  int at[L::kRowTiles][2];
  float count = 0;
#pragma unroll
  for (int i = 0; i < L::kRowTiles; i++) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      at[i][h] = output_pixel(p, tile, down * L::kRowTiles + i, row8 + 8 * h);
      count += at[i][h] >= 0 ? 2.0f : 0.0f;
    }
  }
  const int64_t picture = tile.picture * p.y.pixels();
  const int first_channel = tile.column * L::kColumns + across * L::kWarpColumns;
  const float share = count > 0 ? 1 / count : 0;
  float mean[L::kColumnTiles], m2[L::kColumnTiles];
#pragma unroll
  for (int j = 0; j < L::kColumnTiles; j++) {
    float sum = 0;
    m2[j] = 0;
#pragma unroll
    for (int i = 0; i < L::kRowTiles; i++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        if (at[i][h] >= 0) sum += sums[i][j][2 * h] + sums[i][j][2 * h + 1];
      }
    }
    mean[j] = sum * share;
#pragma unroll
    for (int i = 0; i < L::kRowTiles; i++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const float d0 = sums[i][j][2 * h] - mean[j], d1 = sums[i][j][2 * h + 1] - mean[j];
        if (at[i][h] >= 0) m2[j] = fmaf(d0, d0, fmaf(d1, d1, m2[j]));
      }
    }
  }
#pragma unroll
  for (int g = 0; g < L::kColumnTiles / 4; g++) {
    const int c = first_channel + lane_channel(g, quad);
#pragma unroll
    for (int i = 0; i < L::kRowTiles; i++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        if (at[i][h] < 0) continue;
        if (p.y) {
          // Strides are multiples of 8, and weights and bias are zeros beyond the channels.
          if (c >= p.y.padded()) continue;
          uint32_t pairs[4];
#pragma unroll
          for (int j = 0; j < 4; j++) {
            pairs[j] = pack<T>(sums[i][4 * g + j][2 * h], sums[i][4 * g + j][2 * h + 1]);
          }
          T* const to = static_cast<T*>(p.y.data) + p.y.offset(picture + at[i][h], c);
          *reinterpret_cast<uint4*>(to) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
        } else {
          float* const plain =
              static_cast<float*>(p.store.data) + at[i][h] * p.store.strides[1] + c;
#pragma unroll
          for (int j = 0; j < 4; j++) {
            const float v0 = sums[i][4 * g + j][2 * h], v1 = sums[i][4 * g + j][2 * h + 1];
            if (p.plain) {
              if (c + 2 * j < p.y.c) plain[2 * j] = v0;
              if (c + 2 * j + 1 < p.y.c) plain[2 * j + 1] = v1;
            } else if constexpr (L::kColumns == 32) {
              if (c + 2 * j < p.y.c) store_pixel(p, tile.picture, at[i][h], c + 2 * j, v0);
              if (c + 2 * j + 1 < p.y.c) store_pixel(p, tile.picture, at[i][h], c + 2 * j + 1, v1);
            }
          }
        }
      }
    }
  }
  if constexpr (L::kColumns == 128) {
    if (p.stats.data != nullptr) tile_moments<L>(p, tile, mean, m2, count, down, across, turn);
  }
}

// The sums begin with the bias and the residual.
template <class L>
__device__ __forceinline__ void begin_sums(const Portable& p, const PortableTile& tile,
                                           float (&sums)[L::kRowTiles][L::kColumnTiles][4],
                                           const uint8_t* residual, int down, int across) {
  const int lane = threadIdx.x & 31, quad = lane & 3, row8 = lane >> 2;
  const int first_channel = tile.column * L::kColumns + across * L::kWarpColumns;
#pragma unroll
  for (int j = 0; j < L::kColumnTiles; j++) {
    const int c = first_channel + lane_channel(j >> 2, quad) + 2 * (j & 3);
    const float2 bias =
        p.bias != nullptr ? *reinterpret_cast<const float2*>(p.bias + c) : make_float2(0, 0);
#pragma unroll
    for (int i = 0; i < L::kRowTiles; i++) {
      sums[i][j][0] = sums[i][j][2] = bias.x;
      sums[i][j][1] = sums[i][j][3] = bias.y;
    }
  }
  if (residual == nullptr) return;
#pragma unroll
  for (int g = 0; g < L::kColumnTiles / 4; g++) {
#pragma unroll
    for (int i = 0; i < L::kRowTiles; i++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const uint4 r = *reinterpret_cast<const uint4*>(
            residual + in_box(down * L::kRowTiles + i, row8 + 8 * h, 4 * g + quad));
        const uint32_t pairs[4] = {r.x, r.y, r.z, r.w};
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const float2 v = unpack<typename L::T>(pairs[j]);
          sums[i][4 * g + j][2 * h] += v.x;
          sums[i][4 * g + j][2 * h + 1] += v.y;
        }
      }
    }
  }
}

// The end of a product in an attention.
template <class L>
__device__ __forceinline__ void finish_product(const Portable& p, const PortableTile& tile,
                                               float (&sums)[L::kRowTiles][L::kColumnTiles][4],
                                               int down, int across) {
  using T = typename L::T;
  const int quad = threadIdx.x & 3, row8 = (threadIdx.x & 31) >> 2;
  const int first_channel = tile.column * L::kColumns + across * L::kWarpColumns;
  float* const row_sums =
      p.row_sums + (tile.column * L::kWarpsAcross + across) * static_cast<int64_t>(p.pixels);
#pragma unroll
  for (int i = 0; i < L::kRowTiles; i++) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int row = output_pixel(p, tile, down * L::kRowTiles + i, row8 + 8 * h);
      const float value = row >= 0 ? p.row_values[row] : 0;
      float sum = 0;
#pragma unroll
      for (int g = 0; g < L::kColumnTiles / 4; g++) {
        const int c = first_channel + lane_channel(g, quad);
        uint32_t pairs[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const float v0 = sums[i][4 * g + j][2 * h], v1 = sums[i][4 * g + j][2 * h + 1];
          if (p.row_sums != nullptr) {
            pairs[j] = pack<T>(exp2_fast(v0 - value), exp2_fast(v1 - value));
            const float2 rounded = unpack<T>(pairs[j]);  // what the second product will read
            if (c + 2 * j < p.y.c) sum += rounded.x;
            if (c + 2 * j + 1 < p.y.c) sum += rounded.y;
          } else {
            pairs[j] = pack<T>(v0 * value, v1 * value);
          }
        }
        if (row >= 0 && c < p.y.c) {
          *reinterpret_cast<uint4*>(static_cast<T*>(p.y.data) + row * p.y.stride + c) =
              make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
        }
      }
      if (p.row_sums == nullptr) continue;
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
      if (quad == 0 && row >= 0) row_sums[row] = sum;
    }
  }
}

template <class L>
__device__ void multiply_tiles(const Portable& p, const Stages& stages, const Memory& memory,
                               const uint8_t* shared, int warp) {
  constexpr int kPairs = L::kColumnTiles / 2, kSteps = kSlab / 16;
  static_assert(kPairs % 2 == 0);
  const int lane = threadIdx.x & 31;
  const int down = warp / L::kWarpsAcross, across = warp % L::kWarpsAcross;
  // Lanes give the addresses of 8x8 matrices: of rows, pixels 0-7 and 8-15 by two chunks; of
  // columns, two chunks by two blocks of eight.
  const int first_row = down * L::kRowTiles;
  uint32_t place;
  asm volatile("mov.u32 %0, %%laneid;" : "=r"(place));
  const uint32_t columns_at =
      memory.weights +
      in_weights(across * L::kWarpColumns + 8 * ((lane & 7) >> 1) + (lane & 1) + 2 * (lane >> 4),
                 (lane >> 3) & 1);
  const Boxes<L> of_tile(p);
  Walk walk;
  int turn = 0;
  for (int index = blockIdx.x; index < p.tiles; index += gridDim.x, turn ^= 1) {
    const PortableTile tile(p, index);
    float sums[L::kRowTiles][L::kColumnTiles][4];
    const uint8_t* residual = nullptr;
    for (int i = 0; i < of_tile.residual; i++, walk.boxes.next(stages.boxes)) {
      barrier_wait(memory.box_loaded + 8 * walk.boxes.stage, walk.boxes.parity);
      if (i == across) residual = shared + walk.boxes.stage * L::kBoxBytes;
    }
    begin_sums<L>(p, tile, sums, residual, down, across);
    if (of_tile.residual > 0) {
      for (int i = 0; i < of_tile.residual; i++) {
        const int back = walk.boxes.stage - 1 - i;
        barrier_arrive(memory.box_free + 8 * (back < 0 ? back + stages.boxes : back));
      }
    }
    walk.begin(stages, tile.phase);
    barrier_wait(memory.box_loaded + 8 * walk.boxes.stage, walk.boxes.parity);
    barrier_wait(memory.weights_loaded + 8 * walk.weights.stage, walk.weights.parity);
    // Chunk 2 k + h lies at (2 k + h) ^ key, so 16 channels further is an exclusive or with 32 k.
    uint32_t rows = 0, columns = columns_at + walk.weights.stage * L::kWeightBytes;
    // in_box, of this lane's column and half.
    const auto find = [&] {
      const int at = static_cast<int>(place & 15) + walk.ox + walk.x;
      const uint32_t row = memory.boxes + walk.boxes.stage * L::kBoxBytes +
                           (first_row + walk.oy + walk.y) * (kBoxPitch * 128);
      rows = row + static_cast<uint32_t>(((at << 3) + ((place >> 4) ^ (at & 7))) << 4);
    };
    uint32_t a[L::kRowTiles][4], b[2][4];
    const auto load_rows = [&](int i, int k) {
      load_matrices(a[i], (rows ^ (32 * k)) + i * kBoxPitch * 128);
    };
    const auto load_columns = [&](int j, int k) {  // two blocks of eight
      load_matrices(b[j & 1], (columns ^ (32 * k)) + ((j >> 1) * 32 + (j & 1) * 4) * 128);
    };
    find();
#pragma unroll
    for (int i = 0; i < L::kRowTiles; i++) load_rows(i, 0);
    load_columns(0, 0);
    // Registers do for one set of rows and two pairs of columns. What comes next is loaded as soon
    // as its place is free, eight mma before it is used.
    const auto multiply_pair = [&](int j, int i, int n) {
      multiply<typename L::T>(sums[i][2 * j + n], a[i], b[j & 1][2 * n], b[j & 1][2 * n + 1]);
    };
    const auto multiply_all_but_last = [&](int k) {
#pragma unroll
      for (int j = 0; j < kPairs - 1; j++) {
        load_columns(j + 1, k);
#pragma unroll
        for (int n = 0; n < 2; n++) {
#pragma unroll
          for (int i = 0; i < L::kRowTiles; i++) multiply_pair(j, i, n);
        }
      }
    };
    for (;;) {
#pragma unroll 1
      for (int k = 0; k < kSteps - 1; k++) {
        multiply_all_but_last(k);
        load_columns(0, k + 1);
#pragma unroll
        for (int i = 0; i < L::kRowTiles; i++) {
          multiply_pair(kPairs - 1, i, 0);
          multiply_pair(kPairs - 1, i, 1);
          load_rows(i, k + 1);
        }
      }
      multiply_all_but_last(kSteps - 1);
      const uint32_t weights_left = memory.weights_free + 8 * walk.weights.stage;
      const uint32_t box_left = memory.box_free + 8 * walk.boxes.stage;
      const bool slab_done = walk.next(stages);
      if (walk.slabs == 0) {
#pragma unroll
        for (int i = 0; i < L::kRowTiles; i++) {
          multiply_pair(kPairs - 1, i, 0);
          multiply_pair(kPairs - 1, i, 1);
        }
        barrier_arrive(weights_left);
        barrier_arrive(box_left);
        break;
      }
      if (slab_done) {
        barrier_wait(memory.box_loaded + 8 * walk.boxes.stage, walk.boxes.parity);
      }
      barrier_wait(memory.weights_loaded + 8 * walk.weights.stage, walk.weights.parity);
      find();
      columns += walk.weights.stage == 0 ? (1 - stages.weights) * L::kWeightBytes : L::kWeightBytes;
      load_columns(0, 0);
#pragma unroll
      for (int i = 0; i < L::kRowTiles; i++) {
        multiply_pair(kPairs - 1, i, 0);
        multiply_pair(kPairs - 1, i, 1);
        load_rows(i, 0);
      }
      barrier_arrive(weights_left);
      if (slab_done) barrier_arrive(box_left);
    }
    if constexpr (L::kAttends) {
      finish_product<L>(p, tile, sums, down, across);
    } else {
      finish_tile<L>(p, tile, sums, down, across, turn);
    }
  }
}

template <class L>
__global__ void __launch_bounds__(L::kThreads, L::kBlocks)
    mma_conv_kernel(const __grid_constant__ Portable p, const __grid_constant__ Stages stages) {
  extern __shared__ __align__(1024) uint8_t shared[];
  __shared__ Barriers barriers;
  if (threadIdx.x == 0) {
    for (int i = 0; i < stages.weights; i++) {
      barrier_init(shared_address(&barriers.weights_loaded[i]), L::kLoadingThreads);
      barrier_init(shared_address(&barriers.weights_free[i]), L::kMultiplyingThreads);
    }
    for (int i = 0; i < stages.boxes; i++) {
      barrier_init(shared_address(&barriers.box_loaded[i]), L::kLoadingThreads);
      barrier_init(shared_address(&barriers.box_free[i]), L::kMultiplyingThreads);
    }
  }
  __syncthreads();
  begin_grid();
  const uint32_t start = shared_address(shared);
  const Memory memory = {start,
                         start + stages.boxes * L::kBoxBytes,
                         shared_address(barriers.weights_loaded),
                         shared_address(barriers.weights_free),
                         shared_address(barriers.box_loaded),
                         shared_address(barriers.box_free)};
  const int warp = __shfl_sync(~0u, threadIdx.x >> 5, 0);  // known to be the same in a warp
  if (warp < L::kMultiplying) {
    multiply_tiles<L>(p, stages, memory, shared, warp);
  } else {
    load_tiles<L>(p, stages, memory, shared);
  }
}

template <class L>
void launch_layout(const char* name, const Portable& p, const Machine& machine) {
  // As many stages as there is room for; the moments and barriers take up to 7 KiB beside them.
  const int available = (machine.shared_bytes + (L::kBlocks - 1) * 1024) / L::kBlocks - (8 << 10);
  Stages stages = {};
  stages.boxes = 2;
  stages.weights = 3;
  const auto bytes = [](int boxes, int weights) {
    return boxes * L::kBoxBytes + weights * L::kWeightBytes;
  };
  const auto fits = [&](int boxes, int weights) { return bytes(boxes, weights) <= available; };
  if (fits(2, 4)) stages.weights = 4;
  if (fits(3, stages.weights)) stages.boxes = 3;
  if (fits(stages.boxes, 5)) stages.weights = 5;
  for (int phase = 0; phase < input_phases(p.mode); phase++) {
    const Taps taps = taps_of(p.mode, phase, 0);
    stages.groups[stages.group_count++] = {p.slabs, taps.ny, taps.nx};
  }
  if (p.shortcut_slabs > 0) stages.groups[stages.group_count++] = {p.shortcut_slabs, 1, 1};
  stages.up = p.mode == Mode::kUp;
  const int blocks = std::min(p.tiles, machine.processors * L::kBlocks);
  launch(name, mma_conv_kernel<L>,
         {dim3(static_cast<unsigned>(blocks)), dim3(L::kThreads),
          static_cast<size_t>(bytes(stages.boxes, stages.weights))},
         machine, p, stages);
}

template <class T>
void launch_element(const char* name, const Portable& p, int row_tile, const Machine& machine) {
  if (row_tile == 32) {
    launch_layout<Layout<T, 8, 32>>(name, p, machine);
  } else if (p.tile_h == 8) {
    launch_layout<Layout<T, 8, 128>>(name, p, machine);
  } else {
    launch_layout<Layout<T, 16, 128>>(name, p, machine);
  }
}

void launch_any(const char* name, Element element, const Portable& p, int row_tile,
                const Machine& machine) {
  if (element == Element::kF16) {
    launch_element<f16>(name, p, row_tile, machine);
  } else {
    launch_element<bf16>(name, p, row_tile, machine);
  }
}

Portable described(const Product& product, int row_tile, const Machine& machine) {
  const int tile_h = mma_tile_h(Mode::kPoint, 1, product.m, 1, product.n, row_tile,
                                machine.processors, machine.shared_bytes);
  return portable(product, row_tile, tile_h);
}

// A product in an attention: always of 128 columns.
void attention_product(const char* name, const Product& product, const float* row_values,
                       float* row_sums, const Machine& machine) {
  Portable p = described(product, 128, machine);
  p.row_values = row_values;
  p.row_sums = row_sums;
  p.tile_h == 16 ? launch_layout<Layout<bf16, 16, 128, true>>(name, p, machine)
                 : launch_layout<Layout<bf16, 8, 128, true>>(name, p, machine);
}

}  // namespace

void mma_conv(const Conv& conv, const Machine& machine) {
  const int tile_h = mma_tile_h(conv.mode, conv.y.n, conv.y.h, conv.y.w, conv.weight_rows,
                                conv.row_tile, machine.processors, machine.shared_bytes);
  launch_any("mma_conv", conv.element, portable(conv, tile_h), conv.row_tile, machine);
}

void mma_product(const Product& product, const Machine& machine) {
  const int row_tile = mma_row_tile(product.n, false);
  launch_any("mma_product", product.element, described(product, row_tile, machine), row_tile,
             machine);
}

void mma_attention(const BoundedAttention& call, const Machine& machine) {
  attention_bounds(call, machine);
  const int tokens = static_cast<int>(call.x.pixels());
  const int64_t first = call.first_picture * call.x.pixels();
  auto* const queries = static_cast<bf16*>(call.q.data) + (first + call.first_row) * call.q.stride;
  Product weights;
  weights.element = Element::kBF16;
  weights.m = call.rows;
  weights.n = tokens;
  weights.k = call.x.c;
  weights.a = queries;
  weights.lda = call.q.stride;
  weights.b = static_cast<const bf16*>(call.x.data) + first * call.x.stride;
  weights.ldb = call.x.stride;
  weights.c = call.p;
  weights.ldc = call.pitch;
  attention_product("attention_weights", weights, call.bounds, call.sums, machine);

  attention_scales(call, static_cast<int>(attention_parts(false, tokens)), machine);

  Product values;
  values.element = Element::kBF16;
  values.m = call.rows;
  values.n = call.x.c;
  values.k = tokens;
  values.a = call.p;
  values.lda = call.pitch;
  values.b = static_cast<const bf16*>(call.transposed) +
             int64_t{call.first_picture} * call.x.c * call.pitch;
  values.ldb = call.pitch;
  values.c = queries;
  values.ldc = call.q.stride;
  attention_product("attention_values", values, call.scales, nullptr, machine);
}

}  // namespace calotype::cuda
