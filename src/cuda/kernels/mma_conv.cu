// Convolution on the tensor cores of any GPU since sm_80: mma.sync, cp.async.
//
// A tile is 8 x 16 pixels by 128 (or 32) output channels. As in hopper_conv, a slab of 64 input
// channels is loaded once as a box with its margin, activated where it lies, and read shifted by
// every tap. Two boxes and three blocks of weights take 96 KiB: two blocks of threads fit the 227
// KiB of sm_90, so that one multiplies while the other activates; one fits the 99 KiB of sm_86 and
// sm_89. Eight warps of 32 x 64: for 16 channels of depth a warp reads 3 KiB of shared memory for
// 16 mma (m16n8k16).
#include "cuda/kernels/moments.cuh"
#include "cuda/kernels/portable.cuh"

namespace calotype::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kWeightStages = 3;
// Boxes of a 3x3: two of 10 x 18 pixels. Of a 1x1, where each box serves one block of weights:
// three of 8 x 16, loaded as far ahead as the weights.
constexpr int kBoxBytes = kBoxPixels * 128, kPointBoxBytes = kTilePixels * 128;
constexpr int kAllBoxBytes = 3 * kPointBoxBytes;  // 48 KiB; 2 * kBoxBytes are 45

template <int kColumns>
struct Layout {
  static constexpr int kWarpsDown = kColumns == 128 ? 4 : 8, kWarpsAcross = kWarps / kWarpsDown;
  static constexpr int kWarpRows = kTilePixels / kWarpsDown, kWarpColumns = kColumns / kWarpsAcross;
  static constexpr int kWeightBytes = kColumns * 128;
  static constexpr size_t kBytes = kAllBoxBytes + kWeightStages * kWeightBytes;
  static constexpr int kPitch = kColumns + 8;  // of the staged output, in values
  // of_warp in store_moments lies beside it. Together they are all that a block of sm_86 has.
  static constexpr size_t kMomentsBytes = sizeof(Moments) * kWarpsDown * (kColumns / 2);
  static_assert(kBytes + kMomentsBytes <= 99 * 1024, "sm_86 and sm_89 give a block 99 KiB");
};

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
// 16 bytes, of which `bytes` are read and the rest are zeros.
__device__ __forceinline__ void copy_async(uint32_t to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
template <class T>
__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                         uint32_t b1) {
  if constexpr (__is_same(T, f16)) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

__device__ __forceinline__ int bytes_left(int channel, int channels) {
  return 2 * max(0, min(8, channels - channel));
}

// Rows of 128 bytes, chunk c of row r at c ^ (r % 8): reads of eight rows meet in no bank.
__device__ __forceinline__ uint32_t swizzled(int row, int chunk) {
  return static_cast<uint32_t>(row * 128 + ((chunk ^ (row & 7)) << 4));
}

template <class T>
__device__ void load_box(const Box& box, uint32_t to) {
  const T* from = static_cast<const T*>(box.from->data);
  const int64_t before = blockIdx.y * box.from->pixels();
  const int chunk = threadIdx.x & 7, c = box.first_channel + chunk * 8;
  const int bytes = bytes_left(c, box.from->c);
  for (int pixel = threadIdx.x >> 3; pixel < box.h * box.w; pixel += kThreads / 8) {
    const int row = pixel / box.w;
    const int64_t at = box.pixel(row, pixel - row * box.w);
    const bool there = at >= 0 && bytes > 0;
    copy_async(to + swizzled(pixel, chunk), there ? from + box.from->offset(before + at, c) : from,
               there ? bytes : 0);
  }
}

template <class T>
__device__ __forceinline__ uint32_t activate(uint32_t pair, float2 low, float2 high) {
  const float2 v = unpack<T>(pair);
  return pack<T>(silu_of_half(fmaf(v.x, low.x, low.y)), silu_of_half(fmaf(v.y, high.x, high.y)));
}

template <class T>
__device__ void activate_box(const Portable& p, const Box& box, uint8_t* stage) {
  const int chunk = threadIdx.x & 7;
  const float2* affine =
      p.affine.data + int64_t{blockIdx.y} * p.affine.stride + box.first_channel + chunk * 8;
  float2 factor[8];
#pragma unroll
  for (int i = 0; i < 8; i++) {
    factor[i] = __ldg(affine + i);
    factor[i].x *= 0.5f;
    factor[i].y *= 0.5f;
  }
  for (int pixel = threadIdx.x >> 3; pixel < box.h * box.w; pixel += kThreads / 8) {
    const int row = pixel / box.w;
    if (box.pixel(row, pixel - row * box.w) < 0) continue;  // the padding is not normed
    uint4* at = reinterpret_cast<uint4*>(stage + swizzled(pixel, chunk));
    uint4 v = *at;
    v.x = activate<T>(v.x, factor[0], factor[1]);
    v.y = activate<T>(v.y, factor[2], factor[3]);
    v.z = activate<T>(v.z, factor[4], factor[5]);
    v.w = activate<T>(v.w, factor[6], factor[7]);
    *at = v;
  }
}

// Loads blocks of weights in order. A thread has chunk thread % 8 of every 32nd row.
template <class T, int kColumns>
class WeightLoader {
 public:
  __device__ WeightLoader(const Portable& p, int first_row)
      : chunk_(threadIdx.x & 7),
        row_(threadIdx.x >> 3),
        to_(swizzled(row_, chunk_)),  // 32 rows further the swizzle is the same
        from_(static_cast<const T*>(p.weights) + (first_row + row_) * p.weight_pitch + chunk_ * 8),
        valid_(static_cast<const T*>(p.weights)),
        step_(kRowStep * p.weight_pitch),
        block_pitch_(p.block_pitch),
        rows_left_(p.weight_rows - first_row - row_),
        depth_left_(p.depth - chunk_ * 8),
        padded_(p.depth == INT32_MAX) {}

  __device__ __forceinline__ void load(uint32_t stage) {
    const T* from = from_;
    if (padded_) {
#pragma unroll
      for (int i = 0; i < kRows; i++, from += step_) {
        copy_async(stage + to_ + i * kRowStep * 128, from, 16);
      }
    } else {
      const int bytes = 2 * max(0, min(8, depth_left_));
#pragma unroll
      for (int i = 0; i < kRows; i++, from += step_) {
        const bool there = i * kRowStep < rows_left_ && bytes > 0;
        copy_async(stage + to_ + i * kRowStep * 128, there ? from : valid_, there ? bytes : 0);
      }
      depth_left_ -= kSlab;
    }
    from_ += block_pitch_;
  }

 private:
  static constexpr int kRowStep = kThreads / 8, kRows = kColumns / kRowStep;

  const int chunk_, row_;
  const uint32_t to_;
  const T* from_;
  const T* const valid_;  // for copies of nothing
  const int64_t step_, block_pitch_;
  const int rows_left_;
  int depth_left_;
  const bool padded_;
};

// The moments of the tile's pairs of channels: per lane, per warp, then over the warps of a column.
template <int kColumns, int kBlocks>
__device__ void tile_moments(const Portable& p, const PortableTile& tile, float (&mean)[kBlocks],
                             float (&m2)[kBlocks], float count, int down, int across) {
  using L = Layout<kColumns>;
  __shared__ Moments of_warp[L::kWarpsDown][kColumns / 2];
  const int lane = threadIdx.x & 31;
  count = merge_warp(mean, m2, count, lane);
#pragma unroll
  for (int k = 0; k < kBlocks / 8; k++) {
    of_warp[down][across * L::kWarpColumns / 2 + (first_block<kBlocks>(lane) + k) * 4 +
                  (lane & 3)] = {count, mean[k], m2[k]};
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kColumns / 2; i += kThreads) {
    const int unit = tile.column * kColumns / 2 + i;
    if (unit >= p.stats.units) continue;
    Moments total = of_warp[0][i];
    for (int w = 1; w < L::kWarpsDown; w++) total = merge(total, of_warp[w][i]);
    p.stats.at(blockIdx.y, unit, tile.number) = total;
  }
}

template <class T, int kColumns>
__global__ void __launch_bounds__(kThreads, 2) mma_conv_kernel(const __grid_constant__ Portable p) {
  using L = Layout<kColumns>;
  constexpr int kRowTiles = L::kWarpRows / 16, kColumnTiles = L::kWarpColumns / 8;
  begin_grid();
  extern __shared__ __align__(1024) uint8_t shared[];
  const uint32_t boxes = shared_address(shared), weights = boxes + kAllBoxBytes;
  const PortableTile tile(p);
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const int down = warp / L::kWarpsAcross, across = warp % L::kWarpsAcross;
  const int main_slabs = p.slabs * input_phases(p.mode), slabs = main_slabs + p.shortcut_slabs;
  const int blocks = p.slabs * taps_per_slab(p.mode) + p.shortcut_slabs;
  const int first_row = (tile.phase * p.column_tiles + tile.column) * kColumns;

  const bool point = p.mode == Mode::kPoint;
  const int box_stages = point ? 3 : 2, box_bytes = point ? kPointBoxBytes : kBoxBytes;
  load_box<T>(Box(p, tile, 0), boxes);
  WeightLoader<T, kColumns> loader(p, first_row);
  loader.load(weights);
  commit_copies();
  if (point && slabs > 1) load_box<T>(Box(p, tile, 1), boxes + box_bytes);
  if (blocks > 1) loader.load(weights + L::kWeightBytes);
  commit_copies();

  float sums[kRowTiles][kColumnTiles][4] = {};
  const uint32_t column_start =
      swizzled(across * L::kWarpColumns + (lane & 7) + ((lane >> 4) << 3), (lane >> 3) & 1);
  int block = 0, stage = 0, box_stage = 0;
  bool short_slab = false;  // the slab before this one had one tap: its box is the newest copy
  for (int s = 0; s < slabs; s++) {
    const bool is_main = s < main_slabs;
    const Box box(p, tile, s);
    const Taps taps =
        is_main ? taps_of(p.mode, s / p.slabs, tile.phase) : taps_of(Mode::kPoint, 0, 0);
    const uint32_t inputs = boxes + box_stage * box_bytes;
    for (int t = 0; t < taps.ny * taps.nx; t++, block++) {
      if (t == 0 && short_slab && !point) {
        wait_copies<0>();
      } else {
        wait_copies<1>();
      }
      __syncthreads();
      if (t == 0 && is_main && p.affine) {
        activate_box<T>(p, box, shared + box_stage * box_bytes);
        __syncthreads();
      }
      // Everybody has left the block before this one: its place is free.
      if (block + 2 < blocks) {
        const int free = stage == 0 ? 2 : stage - 1;
        loader.load(weights + free * L::kWeightBytes);
      }
      const int ahead = box_stages - 1;
      if (t == 0 && s + ahead < slabs) {
        const int free = box_stage == 0 ? ahead : box_stage - 1;
        load_box<T>(Box(p, tile, s + ahead), boxes + free * box_bytes);
      }
      commit_copies();

      // Chunk 2 k + h of row r lies at chunk (2 k + h) ^ (r % 8), so 16 channels further is an
      // exclusive or with 32 k.
      const int shift = (taps.oy + t / taps.nx) * box.w + taps.ox + t % taps.nx;
      const uint32_t columns = weights + stage * L::kWeightBytes + column_start;
      uint32_t rows[kRowTiles];
#pragma unroll
      for (int i = 0; i < kRowTiles; i++) {
        const int pixel = (down * kRowTiles + i) * box.w + shift + (lane & 15);
        rows[i] = inputs + swizzled(pixel, lane >> 4);
      }
#pragma unroll
      for (int k = 0; k < kSlab / 16; k++) {
        uint32_t a[kRowTiles][4], b[kColumnTiles / 2][4];
#pragma unroll
        for (int i = 0; i < kRowTiles; i++) load_matrices(a[i], rows[i] ^ (32 * k));
#pragma unroll
        for (int j = 0; j < kColumnTiles / 2; j++) {
          load_matrices(b[j], (columns ^ (32 * k)) + j * 16 * 128);
        }
#pragma unroll
        for (int j = 0; j < kColumnTiles; j++) {
#pragma unroll
          for (int i = 0; i < kRowTiles; i++) {
            multiply<T>(sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
          }
        }
      }
      if (++stage == kWeightStages) stage = 0;
    }
    short_slab = taps.ny * taps.nx == 1;
    if (++box_stage == box_stages) box_stage = 0;
  }
  wait_copies<0>();
  __syncthreads();

  // Lane l has the pixels l / 4 and l / 4 + 8 of a row, channels 2 (l % 4) and the next.
  const int quad = lane & 3, row8 = lane >> 2;
  T* const staged = reinterpret_cast<T*>(shared);
  int64_t at[kRowTiles][2];
  float count = 0;
#pragma unroll
  for (int i = 0; i < kRowTiles; i++) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      at[i][h] = output_pixel(p, tile, down * kRowTiles + i, row8 + 8 * h);
      count += at[i][h] >= 0 ? 2.0f : 0.0f;
    }
  }
  const int64_t picture = blockIdx.y * p.y.pixels();
  const float share = count > 0 ? 1 / count : 0;
  float mean[kColumnTiles], m2[kColumnTiles];
#pragma unroll
  for (int j = 0; j < kColumnTiles; j++) {
    const int in_tile = across * L::kWarpColumns + 8 * j + 2 * quad;
    const int c = tile.column * kColumns + in_tile;
    const float2 bias =
        p.bias != nullptr ? *reinterpret_cast<const float2*>(p.bias + c) : make_float2(0, 0);
    float sum = 0;
    mean[j] = m2[j] = 0;
#pragma unroll
    for (int i = 0; i < kRowTiles; i++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float& v0 = sums[i][j][2 * h];
        float& v1 = sums[i][j][2 * h + 1];
        v0 += bias.x;
        v1 += bias.y;
        if (p.residual && at[i][h] >= 0 && c < p.y.c) {
          // Both channels are there: strides are multiples of 8.
          const float2 r = unpack<T>(*reinterpret_cast<const uint32_t*>(
              static_cast<const T*>(p.residual.data) + p.residual.offset(picture + at[i][h], c)));
          v0 += r.x;
          v1 += r.y;
        }
        if (at[i][h] >= 0) sum += v0 + v1;
      }
    }
    mean[j] = sum * share;
#pragma unroll
    for (int i = 0; i < kRowTiles; i++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const float v0 = sums[i][j][2 * h], v1 = sums[i][j][2 * h + 1];
        if (at[i][h] >= 0) {
          m2[j] = fmaf(v0 - mean[j], v0 - mean[j], fmaf(v1 - mean[j], v1 - mean[j], m2[j]));
        }
        if (p.y) {
          const int row = (down * kRowTiles + i) * kTileW + row8 + 8 * h;
          *reinterpret_cast<uint32_t*>(staged + row * L::kPitch + in_tile) = pack<T>(v0, v1);
        } else if (p.plain && at[i][h] >= 0 && c + 1 < p.y.c) {
          float* to = static_cast<float*>(p.store.data) + at[i][h] * p.store.strides[1] + c;
          *reinterpret_cast<float2*>(to) = make_float2(v0, v1);
        } else if (at[i][h] >= 0) {
          if (c < p.y.c) store_pixel(p, at[i][h], c, v0);
          if (c + 1 < p.y.c) store_pixel(p, at[i][h], c + 1, v1);
        }
      }
    }
  }
  if constexpr (kColumns == 128) {
    if (p.stats.data != nullptr) {
      tile_moments<kColumns>(p, tile, mean, m2, count, down, across);
    }
  }
  if (!p.y) return;
  __syncthreads();
  for (int i = threadIdx.x; i < kTilePixels * kColumns / 8; i += kThreads) {
    const int row = i / (kColumns / 8), in_tile = i % (kColumns / 8) * 8;
    const int c = tile.column * kColumns + in_tile;
    const int64_t pixel = output_pixel(p, tile, row / kTileW, row % kTileW);
    if (pixel < 0 || c >= p.y.padded()) continue;  // weights and bias are zeros beyond y.c
    T* to = static_cast<T*>(p.y.data) + p.y.offset(picture + pixel, c);
    const T* from = staged + row * L::kPitch + in_tile;
    if (c + 8 <= p.y.padded()) {
      *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
    } else {
      for (int k = 0; c + k < p.y.padded(); k++) to[k] = from[k];
    }
  }
}

template <class T>
void launch_columns(const char* name, const Portable& p, int row_tile, const Machine& machine) {
  if (row_tile == 128) {
    launch(name, mma_conv_kernel<T, 128>, {portable_grid(p), dim3(kThreads), Layout<128>::kBytes},
           machine, p);
  } else {
    launch(name, mma_conv_kernel<T, 32>, {portable_grid(p), dim3(kThreads), Layout<32>::kBytes},
           machine, p);
  }
}

void launch_element(const char* name, Element element, const Portable& p, int row_tile,
                    const Machine& machine) {
  if (element == Element::kF16) {
    launch_columns<f16>(name, p, row_tile, machine);
  } else {
    launch_columns<bf16>(name, p, row_tile, machine);
  }
}

}  // namespace

void mma_conv(const Conv& conv, const Machine& machine) {
  launch_element("mma_conv", conv.element, portable(conv), conv.row_tile, machine);
}

void mma_product(const Product& product, const Machine& machine) {
  const int row_tile = mma_row_tile(product.n);
  launch_element("mma_product", product.element, portable(product, row_tile), row_tile, machine);
}

}  // namespace calotype::cuda
