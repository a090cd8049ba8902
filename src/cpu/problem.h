// One convolution as the kernels see it: float32 rows, folded norm, where the sums go.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/cat.h"
#include "cpu/buffer.h"
#include "cpu/simd.h"
#include "cpu/thread_pool.h"
#include "ops/ops.h"

namespace calotype::cpu {

// Channels are handled in blocks of 16: one AVX-512 vector, two of AVX2, four of NEON.
constexpr int64_t kBlock = 16;

// GroupNorm and its statistics as (x - mean) * scale + shift, per picture and channel. The float32
// nearest to the group's mean is subtracted first, exactly for values near it, and `shift` has what
// the mean's rounding left: so a large mean costs no precision.
struct FoldedNorm {
  int64_t channels = 0;       // padded to kBlock, with zeros
  std::vector<float> values;  // [batch][mean, scale, shift][channels]

  bool empty() const { return values.empty(); }
  const float* mean(int64_t picture) const { return values.data() + picture * 3 * channels; }
  const float* scale(int64_t picture) const { return mean(picture) + channels; }
  const float* shift(int64_t picture) const { return mean(picture) + 2 * channels; }
};
FoldedNorm fold_norm(const GroupNorm& norm, std::span<const GroupStats> stats, int64_t batch);

// Where a job leaves the sums of its pixels; null where nobody norms y.
struct BlockSums {
  float *shift = nullptr, *sum = nullptr, *square = nullptr;
};

// Sums over one block of pixels, channel by channel, about a value near them (the block's first):
// exact whatever the mean. Filled by the jobs, merged into BandStats in a fixed order.
class ChannelSums {
 public:
  void reset(int64_t units, int64_t channels) {
    units_ = units;
    channels_ = round_up(channels, kBlock);
    buffer_.reserve(units * 3 * channels_);
    counts_.assign(static_cast<size_t>(units), 0);
  }
  BlockSums at(int64_t unit) {
    float* shift = buffer_.data() + unit * 3 * channels_;
    return {shift, shift + channels_, shift + 2 * channels_};
  }
  void fit(int64_t bytes) { buffer_.fit(bytes); }
  int64_t held_bytes() const { return buffer_.held_bytes(); }
  void set_count(int64_t unit, int64_t pixels) { counts_[static_cast<size_t>(unit)] = pixels; }
  // Merges the unit's channels into its groups, in order.
  void merge_into(int64_t unit, int64_t channels, std::span<GroupStats> groups);

 private:
  int64_t units_ = 0, channels_ = 0;
  Buffer buffer_;  // [unit][shift, sum, square][channel]
  std::vector<int64_t> counts_;
};

// The sums of a call's units, [picture][band][part], to the statistics of its bands.
void merge_sums(ChannelSums& sums, int64_t channels, int64_t parts, int64_t first_band,
                int64_t bands, BandStats& stats);

// Has the system find memory for all pages of a range that have none yet; their contents stay. It
// clears them, which a virtual machine may take 0.2 s for where a layer touches 67 MB at once: so
// piece by piece, by all threads, and before two of them touch the same page.
void touch_pages(void* memory, int64_t bytes, int threads, const Ops::Tick& tick);

// Memory that an Ops keeps: shared by all threads, and of each.
struct Workspace {
  explicit Workspace(int count) : threads(count) {}
  int threads;
  Buffer projections, keys;  // of attention
  ChannelSums sums;

  // Before a call whose threads take up to so many bytes, as workspace_bytes() gave them.
  void open(const WorkspaceBytes& bytes, const Ops::Tick& tick);
  float* slot(int i, int64_t floats) {
    if (floats > slot_floats_) fail(ErrorCode::kInternal, "a thread's scratch is too small");
    return slots_.data() + i * slot_floats_;
  }
  WorkspaceBytes held() const {
    return {.slots = slots_.held_bytes(),
            .sums = sums.held_bytes(),
            .attention = projections.held_bytes() + keys.held_bytes()};
  }
  void fit(const WorkspaceBytes& most) {
    slots_.fit(most.slots);
    sums.fit(most.sums);
    if (most.attention > 0) return;
    projections.fit(0);
    keys.fit(0);
  }

 private:
  // One after the other, so that huge pages hold them all.
  Buffer slots_;
  int64_t slot_floats_ = 0;
};

// Of an algorithm whose threads take `slot_floats` each, and whose `units` leave sums of
// `channels`.
inline WorkspaceBytes workspace_bytes(int threads, int64_t slot_floats, int64_t units,
                                      int64_t channels) {
  return {.slots = Buffer::bytes_for(threads * round_up(slot_floats, kBlock)),
          .sums = Buffer::bytes_for(units * 3 * round_up(channels, kBlock))};
}

// `node` is of a lowered graph: it has no shortcut.
struct ConvProblem {
  const ConvCall& call;
  const ConvNode& node;
  Extent x, y;
  const FoldedNorm& norm;
  const float* bias;     // padded to kBlock
  const float* weights;  // as the algorithm's prepare left them

  int64_t stride() const { return node.sampling == Sampling::kDownsample ? 2 : 1; }
  // Rows and columns of zeros before the picture.
  int64_t padding() const {
    return node.sampling == Sampling::kDownsample ? 0 : node.conv.kernel / 2;
  }
  int64_t upsampling() const { return node.sampling == Sampling::kUpsample ? 2 : 1; }

  const float* x_row(int64_t picture, int64_t row) const { return row_of(call.x, picture, row); }
  const float* residual_row(int64_t picture, int64_t row) const {
    return row_of(call.residual, picture, row);
  }
  float* y_row(int64_t picture, int64_t row) const {
    return static_cast<float*>(call.y.data) + picture * call.y.picture_stride +
           (row - call.y.first_row) * y.w * y.c;
  }

 private:
  static const float* row_of(const ConstRows& rows, int64_t picture, int64_t row) {
    return static_cast<const float*>(rows.data) + picture * rows.picture_stride +
           (row - rows.first_row) * rows.extent.w * rows.extent.c;
  }
};

// Whether y is written past the caches: only what is larger than they are, and never memory that is
// read just before it is written.
bool goes_past_caches(const Simd& simd, const ConvProblem& problem);

// Progress of one call that is made of several parallel loops: `share` is the loop's part of it.
class Stages {
 public:
  explicit Stages(const Ops::Tick& tick) : tick_(tick) {}
  ThreadPool::Tick next(double share, int64_t count) {
    const double start = start_;
    start_ += share;
    return [this, start, share, count](int64_t done) {
      told_ = start + share * static_cast<double>(done) / static_cast<double>(count);
      if (tick_) tick_(told_);
    };
  }
  // From the calling thread, in the middle of a unit that may take long: the fraction told last.
  void poll() {
    if (tick_) tick_(told_);
  }

 private:
  const Ops::Tick& tick_;
  double start_ = 0, told_ = 0;
};

}  // namespace calotype::cpu
