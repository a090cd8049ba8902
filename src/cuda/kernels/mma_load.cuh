// The loading half of mma_conv: how a tile's work is laid out in shared memory, and the warps that
// fill it, boxes of input activated, and weights.
#pragma once

#include "cuda/kernels/mma.cuh"
#include "cuda/kernels/portable.cuh"

namespace calotype::cuda {

// Boxes have rows of 18 pixels, whatever is in use, so that the rows of a warp lie at constant
// distances.
constexpr int kBoxPitch = kTileW + 2;
constexpr int kMaxWeightStages = 6, kMaxBoxStages = 4;

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
  static constexpr int kThreads = 32 * kMultiplying;
  static constexpr int kBlocks = kTileH == 16 && kColumns == 128 ? 1 : 2;  // a multiprocessor
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

// `factor`: halves of (scale, offset) of either channel.
template <class T>
__device__ __forceinline__ uint32_t activate(uint32_t pair, const float4& factor) {
  const float2 v = unpack<T>(pair);
  return pack<T>(silu_of_half(fmaf(v.x, factor.x, factor.y)),
                 silu_of_half(fmaf(v.y, factor.z, factor.w)));
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
// Loads and activates the boxes of all of a block's tiles in their order. A thread has chunk
// thread % 8 of every pixel that is its own.
template <class L>
class BoxLoader {
  using T = typename L::T;
  static constexpr int kStep = L::kThreads / 8;  // pixels at a time: one row of 16, or two
  static constexpr int kPiece = 2;               // of them are activated at once

 public:
  __device__ BoxLoader(const Portable& p, const Stages& stages, const Memory& memory,
                       uint8_t* boxes)
      : p_(p),
        stages_(stages.boxes),
        memory_(memory),
        boxes_(boxes),
        of_tile_(p),
        chunk_(threadIdx.x & 7),
        first_(threadIdx.x >> 3),
        cursor_(1),
        index_(blockIdx.x),
        tile_(p, blockIdx.x) {}

  // A piece of work while block t of n of weights is multiplied.
  __device__ __forceinline__ void work(int t, int n) {
    age_++;
    if (pending_) {
      if (age_ >= 2) {     // blocks ago, so that the copies are there
        wait_copies<1>();  // the newest are of weights
        activate(kPiece);
      }
    } else if (t > 0 || n == 1) {
      while (!pending_ && ahead_ < stages_ - 1) load();
    }
  }
  // Makes sure that the next box not yet in use is there; then it is in use.
  __device__ __forceinline__ void use() {
    if (ahead_ == 0) load();
    if (pending_ && ahead_ == 1) finish();
    ahead_--;
  }
  // Begins the next one where there is room; none is in use.
  __device__ __forceinline__ void load_early() {
    if (!pending_ && ahead_ < stages_) load();
  }

 private:
  __device__ __forceinline__ Box current() const {
    if (slab_ < of_tile_.residual) return Box(p_, tile_, slab_, L::kColumns);
    return Box(p_, tile_, slab_ - of_tile_.residual);
  }
  // Strips of kStep pixels: first of the 16 columns that every box has, then of the others.
  __device__ __forceinline__ static int main_strips(const Box& box) {
    return (box.h * kTileW + kStep - 1) / kStep;
  }
  __device__ __forceinline__ static int strips(const Box& box) {
    return main_strips(box) + (box.h * (box.w - kTileW) + kStep - 1) / kStep;
  }
  struct Place {
    int row, column;
  };
  __device__ __forceinline__ Place place(const Box& box, int strip) const {
    const int others = strip - main_strips(box);
    if (others < 0) return {strip * (kStep / kTileW) + first_ / kTileW, first_ % kTileW};
    const int pixel = others * kStep + first_, wide = box.w - kTileW - 1;  // 1 of 2, 0 of 1
    return {pixel >> wide, kTileW + (pixel & wide)};
  }

  __device__ __forceinline__ void load() {
    ahead_++;
    if (index_ >= p_.tiles) return;
    barrier_wait(memory_.box_free + 8 * cursor_.stage, cursor_.parity);
    const Box box = current();
    const int c = box.first_channel + chunk_ * 8;
    const int bytes = bytes_left(c, box.from->c);
    const T* const from = static_cast<const T*>(box.from->data) +
                          (bytes > 0 ? box.from->offset(tile_.picture * box.from->pixels(), c) : 0);
    const int64_t stride = box.from->stride;
    const uint32_t to = memory_.boxes + cursor_.stage * L::kBoxBytes;
    const int count = strips(box);
#pragma unroll 2
    for (int strip = 0; strip < count; strip++) {
      const Place at = place(box, strip);
      if (at.row >= box.h) continue;
      const int pixel = box.pixel(at.row, at.column);
      copy_async(to + in_box(at.row, at.column, chunk_), pixel >= 0 ? from + pixel * stride : from,
                 pixel >= 0 ? bytes : 0);
    }
    pending_ = p_.affine && slab_ >= of_tile_.residual && slab_ < of_tile_.residual + of_tile_.main;
    if (pending_) {
      commit_copies();
      strip_ = age_ = 0;
    } else {
      barrier_arrive_after_copies(memory_.box_loaded + 8 * cursor_.stage);
      next();
    }
  }

  // kPiece strips after another, at most `count`.
  __device__ __forceinline__ void activate(int count) {
    const Box box = current();
    const int end = min(strip_ + count, strips(box));
    uint8_t* const stage = boxes_ + cursor_.stage * L::kBoxBytes;
    const float4* affine =
        reinterpret_cast<const float4*>(p_.affine.data + int64_t{tile_.picture} * p_.affine.stride +
                                        box.first_channel + chunk_ * 8);
    float4 factor[4];  // of two channels each
#pragma unroll
    for (int i = 0; i < 4; i++) {
      factor[i] = __ldg(affine + i);
      factor[i].x *= 0.5f;
      factor[i].y *= 0.5f;
      factor[i].z *= 0.5f;
      factor[i].w *= 0.5f;
    }
#pragma unroll 1
    for (; strip_ < end; strip_ += kPiece) {
      uint4* at[kPiece];
      uint4 v[kPiece];
#pragma unroll
      for (int i = 0; i < kPiece; i++) {
        const Place pixel = place(box, strip_ + i);
        // The padding is not normed.
        const bool there = pixel.row < box.h && box.pixel(pixel.row, pixel.column) >= 0;
        at[i] = there ? reinterpret_cast<uint4*>(stage + in_box(pixel.row, pixel.column, chunk_))
                      : nullptr;
        if (there) v[i] = *at[i];
      }
#pragma unroll
      for (int i = 0; i < kPiece; i++) {
        if (at[i] == nullptr) continue;
        v[i].x = cuda::activate<T>(v[i].x, factor[0]);
        v[i].y = cuda::activate<T>(v[i].y, factor[1]);
        v[i].z = cuda::activate<T>(v[i].z, factor[2]);
        v[i].w = cuda::activate<T>(v[i].w, factor[3]);
        *at[i] = v[i];
      }
    }
    if (strip_ < strips(box)) return;
    barrier_arrive(memory_.box_loaded + 8 * cursor_.stage);
    pending_ = false;
    next();
  }

  __device__ __forceinline__ void finish() {
    wait_copies<0>();
    activate(1 << 16);
  }

  __device__ __forceinline__ void next() {
    cursor_.next(stages_);
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
  Cursor cursor_;
  int index_, slab_ = 0;  // of the next to be loaded, or of the one that is pending
  PortableTile tile_;
  int ahead_ = 0;         // boxes loaded and not yet in use
  bool pending_ = false;  // the newest is not yet activated
  int strip_ = 0, age_ = 0;
};

// Loads blocks of weights of all of a block's tiles in their order. A thread has chunk thread % 8
// of every kStep-th row.
template <class L>
class WeightLoader {
  using T = typename L::T;
  static constexpr int kStep = L::kThreads / 8, kCopies = (L::kColumns + kStep - 1) / kStep;

 public:
  __device__ WeightLoader(const Portable& p, const Stages& stages, const Memory& memory)
      : p_(p),
        stages_(stages.weights),
        memory_(memory),
        per_tile_(p.slabs * taps_per_slab(p.mode) + p.shortcut_slabs),
        chunk_(threadIdx.x & 7),
        row_(threadIdx.x >> 3),
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

}  // namespace calotype::cuda
