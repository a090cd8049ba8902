// The last convolution of a decoder on sm_90a: 3x3, normed, to three channels or fewer that leave
// the network.
//
// Nine taps of three channels are 27 columns of one product: every pixel of a tile's box, its
// margin included, is multiplied once by all taps, and the output adds up nine shifted columns.
// That reads the activated box once, where a product for each tap would read it nine times for
// three columns of use. What is left is the special function units: SiLU of 324 x 64 values takes
// 1296 cycles a slab. Two blocks a multiprocessor, so that one activates while the other waits,
// multiplies or stores.
#include <cuda.h>

#include "core/cat.h"
#include "cuda/kernels/hopper_activate.cuh"
#include "cuda/kernels/launch.cuh"
#include "cuda/kernels/store.cuh"
#include "cuda/kernels/tensor_map.h"

namespace calotype::cuda {
namespace {

constexpr int kTile = kHopperTile, kSide = kTile + 2, kPixels = kSide * kSide;
constexpr int kThreads = 256, kStages = 2;
constexpr int kColumns = 32, kUsed = 27;
constexpr int kGroupBlocks = 3;       // of 64 pixels: two groups have 384, of which 324 count
constexpr int kBoxBytes = 41 * 1024;  // kPixels * 128, rounded up to the swizzle's 1 KiB
constexpr int kWeightBytes = kColumns * 128;
constexpr int kStageBytes = kBoxBytes + kWeightBytes;
// The last block of pixels reads beyond the box: into the weights, and beyond the last stage.
constexpr int kReadBytes = 2 * kGroupBlocks * 64 * 128;
constexpr int kSharedBytes = (kStages - 1) * kStageBytes + kReadBytes + 1024;
constexpr int kPitch = 29;  // of the products of a pixel: odd, for the banks
static_assert(kPixels * kPitch * 4 <= kStages * kStageBytes);

struct Kernel {
  CUtensorMap x;
  int height, width, tiles_x, tiles_y;
  int in_height, rows_above;
  int slabs, channels, row_tile;  // channels: of the output
  Affine affine;
  const void* weights;  // [slab, tap][row_tile][64]
  const float* bias;
  Store store;
};

// The weights of one slab: row 3 tap + channel.
template <class T>
__device__ __forceinline__ void copy_weights(const Kernel& p, int slab, uint8_t* to) {
  for (int i = threadIdx.x; i < kColumns * 8; i += kThreads) {
    const int row = i >> 3, chunk = i & 7, tap = row / 3, channel = row - 3 * tap;
    uint4 v = make_uint4(0, 0, 0, 0);
    if (row < kUsed && channel < p.channels) {
      const int64_t from = (int64_t{slab} * 9 + tap) * p.row_tile + channel;
      v = __ldg(reinterpret_cast<const uint4*>(static_cast<const T*>(p.weights) + from * kSlab) +
                chunk);
    }
    *reinterpret_cast<uint4*>(to + row * 128 + ((chunk ^ (row & 7)) << 4)) = v;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    hopper_conv_out_kernel(const __grid_constant__ Kernel p) {
  extern __shared__ uint8_t dynamic[];
  __shared__ __align__(8) uint64_t loaded[kStages];
  const uint32_t base = (shared_address(dynamic) + 1023) & ~1023u;
  uint8_t* const stages = dynamic + (base - shared_address(dynamic));
  const int tile = blockIdx.x, picture = blockIdx.y;
  const int first_y = tile / p.tiles_x * kTile - 1, first_x = tile % p.tiles_x * kTile - 1;

  const auto load_box = [&](int slab) {
    const int stage = slab % kStages;
    const uint32_t barrier = shared_address(&loaded[stage]);
    barrier_expect(barrier, kPixels * 128);
    tma_load(base + stage * kStageBytes, &p.x, barrier, 0, first_x, first_y + p.rows_above, picture,
             slab);
  };
  if (threadIdx.x == 0) {
    for (uint64_t& barrier : loaded) barrier_init(shared_address(&barrier), 1);
    barrier_fence_init();
  }
  let_next_grid_start();
  for (int s = 0; s < min(kStages, p.slabs); s++) {  // they depend on no other grid
    copy_weights<T>(p, s, stages + s * kStageBytes + kBoxBytes);
  }
  wait_for_previous_grid();
  if (threadIdx.x == 0) {
    for (int s = 0; s < min(kStages, p.slabs); s++) load_box(s);
  }
  __syncthreads();

  const int group = __shfl_sync(~0u, threadIdx.x >> 7, 0);
  constexpr uint32_t kForm = descriptor_form(8 * 128);
  float sums[kGroupBlocks][kColumns / 2];
  int add = 0;
  for (int s = 0; s < p.slabs; s++) {
    const int stage = s % kStages;
    activate_slab<T, kThreads>(stages + stage * kStageBytes,
                               p.affine.data + int64_t{picture} * p.affine.stride + s * kSlab,
                               kSide, first_y + p.rows_above, first_x, p.in_height, p.width,
                               shared_address(&loaded[stage]), s / kStages & 1);
    fence_to_async();
    __syncthreads();
    const uint32_t box = base + stage * kStageBytes;
    const uint32_t a = descriptor_start(box + group * kGroupBlocks * 64 * 128);
    const uint32_t b = descriptor_start(box + kBoxBytes);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; k++) {
      const uint64_t columns = descriptor(b + k * kDescriptorStep, kForm);
#pragma unroll
      for (int m = 0; m < kGroupBlocks; m++) {
        const uint32_t rows = a + k * kDescriptorStep + (m * 64 * 128 >> 4);
        wgmma<T, kColumns>(sums[m], descriptor(rows, kForm), columns, add);
      }
      add = 1;
    }
    wgmma_commit();
    if (s + kStages < p.slabs) {
      wgmma_wait<0>();
      __syncthreads();  // nobody reads the stage any more
      copy_weights<T>(p, s + kStages, stages + stage * kStageBytes + kBoxBytes);
      if (threadIdx.x == 0) load_box(s + kStages);
    }
  }
  wgmma_wait<0>();
  __syncthreads();

  // Lane l has, of 16 pixels a warp, l / 4 and l / 4 + 8, and columns 8 j + 2 (l % 4) and the next.
  float* const products = reinterpret_cast<float*>(stages);
  const int lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3;
#pragma unroll
  for (int m = 0; m < kGroupBlocks; m++) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int pixel = (group * kGroupBlocks + m) * 64 + warp * 16 + (lane >> 2) + 8 * h;
      if (pixel >= kPixels) continue;
      float* to = products + pixel * kPitch + 2 * (lane & 3);
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const int column = 8 * j + 2 * (lane & 3);
        if (column < kUsed) to[8 * j] = sums[m][4 * j + 2 * h];
        if (column + 1 < kUsed) to[8 * j + 1] = sums[m][4 * j + 2 * h + 1];
      }
    }
  }
  __syncthreads();
  const int row = threadIdx.x / kTile, column = threadIdx.x % kTile;
  const int y = first_y + 1 + row, x = first_x + 1 + column;
  if (y >= p.height || x >= p.width) return;
  float result[3] = {0, 0, 0};
#pragma unroll
  for (int tap = 0; tap < 9; tap++) {
    const float* from = products + ((row + tap / 3) * kSide + column + tap % 3) * kPitch + 3 * tap;
#pragma unroll
    for (int c = 0; c < 3; c++) result[c] += from[c];
  }
#pragma unroll
  for (int c = 0; c < 3; c++) {
    if (c < p.channels) store_value(p.store, picture, y, x, c, result[c] + __ldg(p.bias + c));
  }
}

}  // namespace

void hopper_conv_out(const Conv& conv, const Machine& machine) {
  Kernel p = {};
  p.height = conv.y.h;
  p.width = conv.y.w;
  p.tiles_x = (p.width + kTile - 1) / kTile;
  p.tiles_y = (p.height + kTile - 1) / kTile;
  p.in_height = conv.x.h;
  p.rows_above = conv.rows_above;
  p.slabs = slabs_of(conv.x.c);
  p.channels = conv.y.c;
  p.row_tile = conv.row_tile;
  p.affine = conv.affine;
  p.weights = conv.weights;
  p.bias = conv.bias;
  p.store = conv.store;
  p.x = picture_map(conv.element, conv.x, kSide, kSide);
  const int64_t tiles = int64_t{p.tiles_x} * p.tiles_y;
  if (tiles > INT32_MAX || conv.y.n > 65535) {
    fail(ErrorCode::kUnsupported, "the batch is too large for the GPU: ", conv.y.n, " pictures of ",
         tiles, " tiles");
  }
  const Shape3 shape = {dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(conv.y.n)),
                        dim3(kThreads), kSharedBytes};
  const auto kernel =
      conv.element == Element::kF16 ? hopper_conv_out_kernel<f16> : hopper_conv_out_kernel<bf16>;
  launch("hopper_conv_out", kernel, shape, machine, p);
}

}  // namespace calotype::cuda
