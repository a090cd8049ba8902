// The loading half of mma_conv: how a tile's work is laid out in shared memory, and the warps that
// fill it, boxes of input activated, and weights.
#pragma once

#include "cuda/kernels/mma.cuh"
#include "cuda/kernels/portable.cuh"

namespace calotype::cuda {

// Boxes have rows of 18 pixels, whatever is in use, so that the rows of a warp lie at constant
// distances.
constexpr int kBoxPitch = kTileW + 2;
constexpr int kMaxWeightStages = 5, kMaxBoxStages = 3;

template <class Element, int kRows, int kTileColumns, bool kInAttention = false>
struct Layout {
  using T = Element;
  static constexpr bool kAttends = kInAttention;  // see Portable::row_values
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
  static constexpr int kMultiplyingThreads = 32 * kMultiplying;
  static constexpr int kThreads = kMultiplyingThreads + kLoadingThreads;
  static constexpr int kBlocks = kTileH == 16 ? 1 : kColumns == 128 ? 2 : 3;  // a multiprocessor
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

// Loads and activates the boxes of all of a block's tiles in their order. A thread has chunk
// thread % 8 of every pixel that is its own.
template <class L>
class BoxLoader {
  using T = typename L::T;
  static constexpr int kStep = L::kLoadingThreads / 8;  // pixels at a time: 16 or 8
  // A box is gone through by columns: 16 that all have, a thread in one or two of them, and those
  // of the margin, which the threads share.
  static constexpr int kWhole = kTileW / kStep;  // passes
  static constexpr int kBatch = 4;               // rows whose reads overlap

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
        tile_(p, blockIdx.x),
        box_(p, tile_, 0) {}

  __device__ __forceinline__ const Boxes<L>& of_tile() const { return of_tile_; }
  // The part of the work that goes with block t of a slab's n blocks of weights.
  __device__ __forceinline__ void work(int t, int n) {
    if (t == 0 && index_ < p_.tiles) load();
    if (t > 1 && pending_) {
      wait_copies<1>();  // the newest copies are of weights
      activate(1);
    }
    if (t == n - 1) finish();
  }
  __device__ __forceinline__ void whole() {
    if (index_ < p_.tiles) load();
    finish();
  }

 private:
  struct Column {
    int column, first, step, rows;  // rows of the picture that it reaches, 0: it is outside
  };
  __device__ __forceinline__ Column column_of(int pass) const {
    Column c;
    if (pass < kWhole) {
      c = {pass * kStep + first_, 0, 1, 0};
    } else {
      const int wide = box_.w - kTileW - 1;  // 1 of two columns, 0 of one
      c = {kTileW + (first_ & wide), first_ >> wide, kStep >> wide, 0};
    }
    if (box_.linear) {
      c.rows = (box_.from->h * box_.from->w - c.column + kTileW - 1) / kTileW;
    } else {
      const int x = (box_.first_x + c.column) * box_.step + box_.phase_x;
      c.rows = static_cast<unsigned>(x) < static_cast<unsigned>(box_.from->w) ? box_.from->h : 0;
    }
    return c;
  }
  __device__ __forceinline__ int passes() const { return kWhole + (box_.w > kTileW ? 1 : 0); }
  __device__ __forceinline__ int y_of(int row) const {
    return (box_.first_y + row) * box_.step + box_.phase_y;
  }

  __device__ __forceinline__ void load() {
    barrier_wait(memory_.box_free + 8 * ring_.stage, ring_.parity);
    box_ = slab_ < of_tile_.residual ? Box(p_, tile_, slab_, L::kColumns)
                                     : Box(p_, tile_, slab_ - of_tile_.residual);
    const int c = box_.first_channel + chunk_ * 8;
    const int bytes = bytes_left(c, box_.from->c);
    const T* const from =
        static_cast<const T*>(box_.from->data) +
        (bytes > 0 ? box_.from->offset(tile_.picture * box_.from->pixels(), c) : 0);
    const int width = box_.linear ? kTileW : box_.from->w;
    for (int pass = 0; pass < passes(); pass++) {
      const Column column = column_of(pass);
      const int x = (box_.first_x + column.column) * box_.step + box_.phase_x;
      int y = y_of(column.first);
      const T* at = from + (static_cast<int64_t>(y) * width + x) * box_.from->stride;
      const int y_step = column.step * box_.step;
      const int64_t at_step = static_cast<int64_t>(y_step) * width * box_.from->stride;
      uint32_t to =
          memory_.boxes + ring_.stage * L::kBoxBytes + in_box(column.first, column.column, chunk_);
#pragma unroll 6
      for (int row = column.first; row < box_.h; row += column.step) {
        const bool there = static_cast<unsigned>(y) < static_cast<unsigned>(column.rows);
        copy_async(to, there ? at : from, there ? bytes : 0);
        at += at_step;
        y += y_step;
        to += column.step * (kBoxPitch * 128);
      }
    }
    pending_ = p_.affine && slab_ >= of_tile_.residual && slab_ < of_tile_.residual + of_tile_.main;
    if (pending_) {
      commit_copies();
      const float2* affine = p_.affine.data + int64_t{tile_.picture} * p_.affine.stride + c;
#pragma unroll
      for (int i = 0; i < 8; i++) {
        factor_[i] = __ldg(affine + i);
        factor_[i].x *= 0.5f;
        factor_[i].y *= 0.5f;
      }
      pass_ = row_ = 0;
    } else {
      barrier_arrive_after_copies(memory_.box_loaded + 8 * ring_.stage);
      next();
    }
  }

  __device__ __forceinline__ void activate(int batches) {
    uint8_t* const stage = boxes_ + ring_.stage * L::kBoxBytes;
    for (; batches > 0 && pass_ < passes(); batches--) {
      const Column column = column_of(pass_);
      uint8_t* const at = stage + in_box(0, column.column, chunk_);
      uint4 v[kBatch];
      bool there[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; i++) {
        const int row = column.first + (row_ + i) * column.step;
        // The padding is not normed.
        there[i] =
            row < box_.h && static_cast<unsigned>(y_of(row)) < static_cast<unsigned>(column.rows);
        if (there[i]) v[i] = *reinterpret_cast<uint4*>(at + row * (kBoxPitch * 128));
      }
#pragma unroll
      for (int i = 0; i < kBatch; i++) {
        if (!there[i]) continue;
        v[i].x = cuda::activate<T>(v[i].x, factor_[0], factor_[1]);
        v[i].y = cuda::activate<T>(v[i].y, factor_[2], factor_[3]);
        v[i].z = cuda::activate<T>(v[i].z, factor_[4], factor_[5]);
        v[i].w = cuda::activate<T>(v[i].w, factor_[6], factor_[7]);
        const int row = column.first + (row_ + i) * column.step;
        *reinterpret_cast<uint4*>(at + row * (kBoxPitch * 128)) = v[i];
      }
      row_ += kBatch;
      if (column.first + row_ * column.step >= box_.h) {
        row_ = 0;
        pass_++;
      }
    }
  }

  __device__ __forceinline__ void finish() {
    if (!pending_) return;
    wait_copies<0>();
    activate(1 << 16);
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
  Cursor ring_;
  int index_, slab_ = 0;
  PortableTile tile_;
  Box box_;               // the newest
  bool pending_ = false;  // it is not yet activated
  int pass_ = 0, row_ = 0;
  float2 factor_[8];
};

// Loads blocks of weights of all of a block's tiles in their order. A thread has chunk thread % 8
// of every kStep-th row.
template <class L>
class WeightLoader {
  using T = typename L::T;
  static constexpr int kStep = L::kLoadingThreads / 8, kCopies = (L::kColumns + kStep - 1) / kStep;

 public:
  __device__ WeightLoader(const Portable& p, const Stages& stages, const Memory& memory, int thread)
      : p_(p),
        stages_(stages.weights),
        memory_(memory),
        per_tile_(p.slabs * taps_per_slab(p.mode) + p.shortcut_slabs),
        chunk_(thread & 7),
        row_(thread >> 3),
        to_(in_weights(row_, chunk_)),
        cursor_(1),
        index_(blockIdx.x) {
    begin();
  }

  __device__ __forceinline__ void load() {
    if (index_ < p_.tiles) {
      barrier_wait(memory_.weights_free + 8 * cursor_.stage, cursor_.parity);
      const uint32_t to = memory_.weights + cursor_.stage * L::kWeightBytes + to_;
      if (p_.depth == INT32_MAX) {  // rows of 64, all there
#pragma unroll
        for (int i = 0; i < kCopies; i++) copy_async(place(to, i), from_ + i * kStep * kSlab);
      } else {
        const int bytes = 2 * max(0, min(8, p_.depth - depth_));
        const T* from = from_;
#pragma unroll
        for (int i = 0; i < kCopies; i++, from += kStep * p_.weight_pitch) {
          const bool there = i * kStep < rows_left_ && bytes > 0;
          copy_async(place(to, i), there ? from : p_.weights, there ? bytes : 0);
        }
        depth_ += kSlab;
      }
      from_ += p_.block_pitch;
      barrier_arrive_after_copies(memory_.weights_loaded + 8 * cursor_.stage);
      cursor_.next(stages_);
      if (--left_ == 0) {
        index_ += gridDim.x;
        begin();
      }
    }
    commit_copies();
  }

 private:
  __device__ __forceinline__ void begin() {
    const PortableTile tile(p_, index_);
    const int row = (tile.phase * p_.column_tiles + tile.column) * L::kColumns + row_;
    from_ = static_cast<const T*>(p_.weights) + row * p_.weight_pitch + chunk_ * 8;
    rows_left_ = p_.weight_rows - row;
    depth_ = chunk_ * 8;
    left_ = per_tile_;
  }
  // in_weights of row_ + i kStep: kStep is a power of two above row_, so the keys share no bit.
  __device__ __forceinline__ uint32_t place(uint32_t to, int i) const {
    return (to ^ static_cast<uint32_t>(weight_key(i * kStep) << 4)) + i * kStep * 128;
  }

  const Portable& p_;
  const int stages_;
  const Memory& memory_;
  const int per_tile_, chunk_, row_;
  const uint32_t to_;
  Cursor cursor_;
  int index_, left_ = 0;
  const T* from_ = nullptr;
  int rows_left_ = 0, depth_ = 0;
};

template <class L>
__device__ void load_tiles(const Portable& p, const Stages& stages, const Memory& memory,
                           uint8_t* shared) {
  const int thread = threadIdx.x - L::kMultiplyingThreads;
  BoxLoader<L> boxes(p, stages, memory, shared, thread);
  WeightLoader<L> weights(p, stages, memory, thread);
  for (int i = 0; i < stages.weights - 1; i++) weights.load();
  for (int i = 0; i < stages.boxes - 1; i++) boxes.whole();
  // In step with the warps that multiply: what they have just left is filled again.
  for (int index = blockIdx.x; index < p.tiles; index += gridDim.x) {
    for (int i = 0; i < boxes.of_tile().residual; i++) boxes.whole();
    for (int group = 0; group < stages.group_count; group++) {
      const int n = stages.groups[group].ny * stages.groups[group].nx;
      for (int s = 0; s < stages.groups[group].slabs; s++) {
        for (int t = 0; t < n; t++) {
          weights.load();
          boxes.work(t, n);
        }
      }
    }
  }
}

}  // namespace calotype::cuda
