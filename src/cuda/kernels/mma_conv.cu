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
#include "cuda/kernels/mma.cuh"
#include "cuda/kernels/moments.cuh"
#include "cuda/kernels/portable.cuh"

namespace calotype::cuda {
namespace {

// Boxes have rows of 18 pixels, whatever is in use, so that the rows of a warp lie at constant
// distances.
constexpr int kBoxPitch = kTileW + 2;
constexpr int kMaxWeightStages = 6, kMaxBoxStages = 4;
// A box is activated in so many parts, between loading blocks of weights.
constexpr int kParts = 5;

template <class Element, int kRows, int kTileColumns>
struct Layout {
  using T = Element;
  static constexpr int kTileH = kRows, kColumns = kTileColumns;
  static constexpr int kMultiplying = kTileH / 2;  // warps
  static constexpr int kWarpsAcross = kColumns == 128 ? 2 : 1;
  static constexpr int kWarpsDown = kMultiplying / kWarpsAcross;
  // A warp's blocks of 16 pixels by 8 channels.
  static constexpr int kRowTiles = kTileH / kWarpsDown, kWarpColumns = kColumns / kWarpsAcross;
  static constexpr int kColumnTiles = kWarpColumns / 8;
  // One warp that loads for two that multiply: three on a quarter of a multiprocessor, which has
  // 16,384 registers, 168 a thread.
  static constexpr int kLoading = kMultiplying / 2;
  static constexpr int kLoadingThreads = 32 * kLoading;
  static constexpr int kThreads = 32 * (kMultiplying + kLoading);
  static constexpr int kBlocks = kTileH == 16 ? 1 : 2;  // a multiprocessor
  static constexpr int kBoxBytes = (kTileH + 2) * kBoxPitch * 128;
  static constexpr int kWeightBytes = kColumns * 128;
};

// Slabs that have the same taps.
struct Group {
  int slabs, ny, nx;
};
struct Stages {
  int boxes, weights;
  Group groups[5];  // of up to four input phases, and of the shortcut
  int group_count;
  bool up;
};

struct Barriers {
  uint64_t weights_loaded[kMaxWeightStages], weights_free[kMaxWeightStages];
  uint64_t box_loaded[kMaxBoxStages], box_free[kMaxBoxStages];
};

// Addresses of shared memory.
struct Memory {
  uint32_t boxes, weights;
  uint32_t weights_loaded, weights_free, box_loaded, box_free;
};

__device__ __forceinline__ int bytes_left(int channel, int channels) {
  return 2 * max(0, min(8, channels - channel));
}

// A pixel of a box is 128 bytes; chunk c of it lies at c ^ (column % 8), so that reads of eight
// neighbours meet in no bank.
__device__ __forceinline__ uint32_t in_box(int row, int column, int chunk) {
  return static_cast<uint32_t>((row * kBoxPitch + column) * 128 + ((chunk ^ (column & 7)) << 4));
}

// Which row of a block of weights is which column of an mma is free to choose. Column n of block j
// of eight is channel 32 (j / 4) + 8 (n / 2) + 2 (j % 4) + n % 2: then the two columns that a lane
// has of each of four blocks are eight channels in a row, which it stores at once. The rows that
// are read together are 8 a + b, a < 4, b < 2, so chunks are swizzled by 2 a + b.
__device__ __forceinline__ int weight_key(int row) { return ((row >> 3) & 3) << 1 | (row & 1); }
__device__ __forceinline__ uint32_t in_weights(int row, int chunk) {
  return static_cast<uint32_t>(row * 128 + ((chunk ^ weight_key(row)) << 4));
}
// The first of a lane's eight channels of the four blocks from 4 g on.
__device__ __forceinline__ int lane_channel(int g, int quad) { return 32 * g + 8 * quad; }

template <class T>
__device__ __forceinline__ uint32_t activate(uint32_t pair, float2 low, float2 high) {
  const float2 v = unpack<T>(pair);
  return pack<T>(silu_of_half(fmaf(v.x, low.x, low.y)), silu_of_half(fmaf(v.y, high.x, high.y)));
}

// Boxes of a tile come in this order: the residual, which the sums begin with; the input; the
// shortcut's.
template <class L>
struct Boxes {
  int residual, main, all;

  __device__ explicit Boxes(const Portable& p)
      : residual(p.residual ? (L::kColumns + kSlab - 1) / kSlab : 0),
        main(p.slabs * input_phases(p.mode)),
        all(residual + main + p.shortcut_slabs) {}
};
__device__ __forceinline__ Taps taps_of_slab(const Portable& p, const PortableTile& tile, int s) {
  return s < p.slabs * input_phases(p.mode) ? taps_of(p.mode, s / p.slabs, tile.phase)
                                            : taps_of(Mode::kPoint, 0, 0);
}

// --- Loading

// Loads and activates the boxes of all of a block's tiles in their order. A thread has chunk
// thread % 8 of every pixel that is its own.
template <class L>
class BoxLoader {
  using T = typename L::T;
  static constexpr int kStep = L::kLoadingThreads / 8;  // pixels, at most the width of a box

 public:
  __device__ BoxLoader(const Portable& p, const Stages& stages, const Memory& memory,
                       uint8_t* boxes, int thread)
      : p_(p),
        stages_(stages.boxes),
        memory_(memory),
        boxes_(boxes),
        of_tile_(p),
        chunk_(thread & 7),
        first_(thread >> 3),
        ring_(1),
        index_(blockIdx.x),
        tile_(p, blockIdx.x) {}

  // The part of a slab's work that goes with block t of n blocks of weights.
  __device__ __forceinline__ void work(int t, int n, int weight_stages) {
    // By then the warps that multiply have left the box before the current one.
    const int load_at = min(weight_stages - 1, max(n - 1 - kParts, 0));
    if (t == load_at && index_ < p_.tiles) load();
    if (t > load_at && pending_) {
      wait_copies<1>();  // the newest copies are of weights
      activate(kPerPart);
    }
    if (t == n - 1) finish();
  }
  __device__ void whole() {
    if (index_ < p_.tiles) load();
    finish();
  }

 private:
  __device__ __forceinline__ Box current() const {
    if (slab_ < of_tile_.residual) return Box(p_, tile_, slab_, L::kColumns);
    return Box(p_, tile_, slab_ - of_tile_.residual);
  }

  static constexpr int kBatch = 4;  // pixels whose reads overlap
  static constexpr int kBatches =
      ((L::kTileH + 2) * kBoxPitch + kStep * kBatch - 1) / (kStep * kBatch);
  static constexpr int kPerPart = (kBatches + kParts - 1) / kParts;

  __device__ void load() {
    barrier_wait(memory_.box_free + 8 * ring_.stage, ring_.parity);
    const Box box = current();
    const int c = box.first_channel + chunk_ * 8;
    const int bytes = bytes_left(c, box.from->c);
    const T* const from = static_cast<const T*>(box.from->data) +
                          (bytes > 0 ? box.from->offset(tile_.picture * box.from->pixels(), c) : 0);
    const int64_t stride = box.from->stride;
    const uint32_t to = memory_.boxes + ring_.stage * L::kBoxBytes;
    int row = 0, column = first_;
#pragma unroll 4
    for (int pixel = first_; pixel < box.h * box.w; pixel += kStep) {
      const int at = box.pixel(row, column);
      copy_async(to + in_box(row, column, chunk_), at >= 0 ? from + at * stride : from,
                 at >= 0 ? bytes : 0);
      column += kStep;
      if (column >= box.w) {
        column -= box.w;
        row++;
      }
    }
    pending_ = p_.affine && slab_ >= of_tile_.residual && slab_ < of_tile_.residual + of_tile_.main;
    if (pending_) {
      commit_copies();
      const float2* affine =
          p_.affine.data + int64_t{tile_.picture} * p_.affine.stride + c;
#pragma unroll
      for (int i = 0; i < 8; i++) {
        factor_[i] = __ldg(affine + i);
        factor_[i].x *= 0.5f;
        factor_[i].y *= 0.5f;
      }
      row_ = 0;
      column_ = first_;
      batches_ = kBatches;
    } else {
      barrier_arrive_after_copies(memory_.box_loaded + 8 * ring_.stage);
      next();
    }
  }

  __device__ __forceinline__ void activate(int count) {
    const Box box = current();
    uint8_t* const stage = boxes_ + ring_.stage * L::kBoxBytes;
    for (count = min(count, batches_), batches_ -= count; count > 0; count--) {
      uint4* at[kBatch];
      uint4 v[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; i++) {
        // The padding is not normed.
        const bool there = row_ < box.h && box.pixel(row_, column_) >= 0;
        at[i] = there ? reinterpret_cast<uint4*>(stage + in_box(row_, column_, chunk_)) : nullptr;
        if (there) v[i] = *at[i];
        column_ += kStep;
        if (column_ >= box.w) {
          column_ -= box.w;
          row_++;
        }
      }
#pragma unroll
      for (int i = 0; i < kBatch; i++) {
        if (at[i] == nullptr) continue;
        v[i].x = cuda::activate<T>(v[i].x, factor_[0], factor_[1]);
        v[i].y = cuda::activate<T>(v[i].y, factor_[2], factor_[3]);
        v[i].z = cuda::activate<T>(v[i].z, factor_[4], factor_[5]);
        v[i].w = cuda::activate<T>(v[i].w, factor_[6], factor_[7]);
        *at[i] = v[i];
      }
    }
  }

  __device__ __forceinline__ void finish() {
    if (!pending_) return;
    wait_copies<0>();
    activate(kBatches);
    barrier_arrive(memory_.box_loaded + 8 * ring_.stage);
    pending_ = false;
    next();
  }

  __device__ __forceinline__ void next() {
    ring_.next(stages_);
    if (++slab_ < of_tile_.all) return;
    slab_ = 0;
    index_ += gridDim.x;
    tile_ = PortableTile(p_, index_);
  }

  const Portable& p_;
  const int stages_;
  const Memory& memory_;
  uint8_t* const boxes_;
  const Boxes<L> of_tile_;
  const int chunk_, first_;
  Ring ring_;
  int index_, slab_ = 0;
  PortableTile tile_;
  bool pending_ = false;  // a box is loaded, and not yet activated
  int row_ = 0, column_ = 0, batches_ = 0;
  float2 factor_[8];
};

// Loads blocks of weights in order. A thread has chunk thread % 8 of every kStep-th row.
template <class L>
class WeightLoader {
  using T = typename L::T;
  static constexpr int kStep = L::kLoadingThreads / 8, kCopies = L::kColumns / kStep;

 public:
  __device__ WeightLoader(const Portable& p, const Stages& stages, const Memory& memory, int thread)
      : p_(p),
        stages_(stages.weights),
        memory_(memory),
        chunk_(thread & 7),
        row_(thread >> 3),
        to_(in_weights(row_, chunk_)),
        ring_(1) {}

  __device__ void begin(const PortableTile& tile) {
    const int row = (tile.phase * p_.column_tiles + tile.column) * L::kColumns + row_;
    from_ = static_cast<const T*>(p_.weights) + row * p_.weight_pitch + chunk_ * 8;
    rows_left_ = p_.weight_rows - row;
    depth_left_ = p_.depth - chunk_ * 8;
  }
  __device__ __forceinline__ void load() {
    barrier_wait(memory_.weights_free + 8 * ring_.stage, ring_.parity);
    const uint32_t to = memory_.weights + ring_.stage * L::kWeightBytes + to_;
    if (p_.depth == INT32_MAX) {  // rows of 64, all there
#pragma unroll
      for (int i = 0; i < kCopies; i++) copy_async(place(to, i), from_ + i * kStep * kSlab);
    } else {
      const int bytes = 2 * max(0, min(8, depth_left_));
      const T* from = from_;
#pragma unroll
      for (int i = 0; i < kCopies; i++, from += kStep * p_.weight_pitch) {
        const bool there = i * kStep < rows_left_ && bytes > 0;
        copy_async(place(to, i), there ? from : p_.weights, there ? bytes : 0);
      }
      depth_left_ -= kSlab;
    }
    from_ += p_.block_pitch;
    barrier_arrive_after_copies(memory_.weights_loaded + 8 * ring_.stage);
    commit_copies();
    ring_.next(stages_);
  }

 private:
  // in_weights of row_ + i kStep: kStep is a power of two above row_, so the keys share no bit.
  __device__ __forceinline__ uint32_t place(uint32_t to, int i) {
    return (to ^ static_cast<uint32_t>(weight_key(i * kStep) << 4)) + i * kStep * 128;
  }

  const Portable& p_;
  const int stages_;
  const Memory& memory_;
  const int chunk_, row_;
  const uint32_t to_;
  Ring ring_;
  const T* from_ = nullptr;
  int rows_left_ = 0, depth_left_ = 0;
};

template <class L>
__device__ void load_tiles(const Portable& p, const Stages& stages, const Memory& memory,
                           uint8_t* shared) {
  const int thread = threadIdx.x - 32 * L::kMultiplying;
  BoxLoader<L> boxes(p, stages, memory, shared, thread);
  WeightLoader<L> weights(p, stages, memory, thread);
  for (int i = 0; i < stages.boxes - 1; i++) boxes.whole();
  const Boxes<L> of_tile(p);
  for (int index = blockIdx.x; index < p.tiles; index += gridDim.x) {
    const PortableTile tile(p, index);
    weights.begin(tile);
    for (int i = 0; i < of_tile.residual; i++) boxes.whole();
    for (int s = 0; s < of_tile.all - of_tile.residual; s++) {
      const Taps taps = taps_of_slab(p, tile, s);
      const int n = taps.ny * taps.nx;
      for (int t = 0; t < n; t++) {
        weights.load();
        boxes.work(t, n, stages.weights);
      }
    }
  }
}

// --- Multiplying

// Walks over the blocks of weights of a tile: (slab, tap).
struct Walk {
  int group, slabs, x, y, nx, ny, oy, ox;  // slabs: left of the group
  Ring weights{0}, boxes{0};

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
  named_barrier(1, 32 * L::kMultiplying);
  for (int i = threadIdx.x; i < L::kColumns / 2; i += 32 * L::kMultiplying) {
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

template <class L>
__device__ void multiply_tiles(const Portable& p, const Stages& stages, const Memory& memory,
                               const uint8_t* shared, int warp) {
  constexpr int kPairs = L::kColumnTiles / 2, kSteps = kSlab / 16;
  static_assert(kPairs % 2 == 0);
  const int lane = threadIdx.x & 31;
  const int down = warp / L::kWarpsAcross, across = warp % L::kWarpsAcross;
  // Lanes give the addresses of 8x8 matrices: of rows, pixels 0-7 and 8-15 by two chunks; of
  // columns, two chunks by two blocks of eight.
  const int first_row = down * L::kRowTiles, column = lane & 15, half = lane >> 4;
  const uint32_t columns_at =
      memory.weights + in_weights(across * L::kWarpColumns + 8 * ((lane & 7) >> 1) + (lane & 1) +
                                      2 * (lane >> 4),
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
      __syncwarp();
      for (int i = 0; i < of_tile.residual && lane == 0; i++) {
        const int back = walk.boxes.stage - 1 - i;
        barrier_arrive(memory.box_free + 8 * (back < 0 ? back + stages.boxes : back));
      }
    }
    walk.begin(stages, tile.phase);
    barrier_wait(memory.box_loaded + 8 * walk.boxes.stage, walk.boxes.parity);
    barrier_wait(memory.weights_loaded + 8 * walk.weights.stage, walk.weights.parity);
    // Chunk 2 k + h lies at (2 k + h) ^ key, so 16 channels further is an exclusive or with 32 k.
    uint32_t rows = 0, columns = 0;
    const auto find = [&] {
      rows = memory.boxes + walk.boxes.stage * L::kBoxBytes +
             in_box(first_row + walk.oy + walk.y, column + walk.ox + walk.x, half);
      columns = columns_at + walk.weights.stage * L::kWeightBytes;
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
    for (bool more = true; more;) {
      const uint32_t weights_left = memory.weights_free + 8 * walk.weights.stage;
      const uint32_t box_left = memory.box_free + 8 * walk.boxes.stage;
      bool slab_done = false;
#pragma unroll 1
      for (int k = 0; k < kSteps; k++) {
#pragma unroll
        for (int j = 0; j < kPairs - 1; j++) {
          load_columns(j + 1, k);
#pragma unroll
          for (int n = 0; n < 2; n++) {
#pragma unroll
            for (int i = 0; i < L::kRowTiles; i++) {
              multiply<typename L::T>(sums[i][2 * j + n], a[i], b[j & 1][2 * n],
                                      b[j & 1][2 * n + 1]);
            }
          }
        }
        if (k == kSteps - 1) {
          slab_done = walk.next(stages);
          more = walk.slabs > 0;
          if (more) {
            if (slab_done) {
              barrier_wait(memory.box_loaded + 8 * walk.boxes.stage, walk.boxes.parity);
            }
            barrier_wait(memory.weights_loaded + 8 * walk.weights.stage, walk.weights.parity);
            find();
          }
        }
        if (more) load_columns(0, (k + 1) % kSteps);
#pragma unroll
        for (int i = 0; i < L::kRowTiles; i++) {
#pragma unroll
          for (int n = 0; n < 2; n++) {
            multiply<typename L::T>(sums[i][2 * kPairs - 2 + n], a[i], b[1][2 * n],
                                    b[1][2 * n + 1]);
          }
          if (more) load_rows(i, (k + 1) % kSteps);
        }
      }
      if (lane == 0) {
        barrier_arrive(weights_left);
        if (slab_done) barrier_arrive(box_left);
      }
    }
    finish_tile<L>(p, tile, sums, down, across, turn);
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
      barrier_init(shared_address(&barriers.weights_free[i]), L::kMultiplying);
    }
    for (int i = 0; i < stages.boxes; i++) {
      barrier_init(shared_address(&barriers.box_loaded[i]), L::kLoadingThreads);
      barrier_init(shared_address(&barriers.box_free[i]), L::kMultiplying);
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
  if (row_tile == 128) {
    p.tile_h == 16 ? launch_layout<Layout<T, 16, 128>>(name, p, machine)
                   : launch_layout<Layout<T, 8, 128>>(name, p, machine);
  } else {
    p.tile_h == 16 ? launch_layout<Layout<T, 16, 32>>(name, p, machine)
                   : launch_layout<Layout<T, 8, 32>>(name, p, machine);
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

}  // namespace

void mma_conv(const Conv& conv, const Machine& machine) {
  const int tile_h =
      mma_tile_h(conv.mode, conv.y.n, conv.y.h, conv.y.w, conv.weight_rows / conv.row_tile,
                 machine.processors, machine.shared_bytes);
  launch_any("mma_conv", conv.element, portable(conv, tile_h), conv.row_tile, machine);
}

void mma_product(const Product& product, const Machine& machine) {
  const int row_tile = mma_row_tile(product.n, false);
  const int tile_h = mma_tile_h(Mode::kPoint, 1, product.m, 1, (product.n + row_tile - 1) / row_tile,
                                machine.processors, machine.shared_bytes);
  launch_any("mma_product", product.element, portable(product, row_tile, tile_h), row_tile,
             machine);
}

}  // namespace calotype::cuda
