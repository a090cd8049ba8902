// Pieces of attention that are the same with float32 units and with tiles of AMX. Included once a
// target.

#if defined(CALOTYPE_CPU_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CALOTYPE_CPU_ATTENTION_INL_H_
#undef CALOTYPE_CPU_ATTENTION_INL_H_
#else
#define CALOTYPE_CPU_ATTENTION_INL_H_
#endif

#include "cpu/attention_shape.h"
#include "cpu/gemm-inl.h"

HWY_BEFORE_NAMESPACE();
namespace calotype::cpu {
namespace HWY_NAMESPACE {
namespace {

// C (rows, columns of the panel) = bias of the row + A (rows x padded, from `weights`) * B.
void project(const AttentionShape& s, const float* weights, const float* bias, const float* b,
             float* c) {
  for (int64_t row = 0; row < s.padded; row++) {
    const V v = hn::Set(d, bias[row]);
    for (int64_t j = 0; j < kColumns; j += kLanes) hn::StoreU(v, d, c + row * kColumns + j);
  }
  Product p;
  p.a = weights;
  p.chunk_stride = s.padded * kBlock;
  p.b = b;
  p.k = s.padded;
  p.c = c;
  p.c_stride = kColumns;
  p.c_block_stride = kBlock;
  p.accumulate = true;
  product<kColumnBlocks, Layout::kRowsOf16>(p, s.padded);
}

// Columns [0, kColumns) of a panel from tokens [first, first + count), zeros beyond.
void gather_panel(const AttentionShape& s, const float* x, int64_t first, int64_t count,
                  float* panel) {
  for (int64_t j = 0; j < kColumns; j++) {
    const int64_t token = first + j;
    const float* from = x + token / kKeys * s.blocks * s.plane + token % kKeys * kBlock;
    for (int64_t c = 0; c < s.padded; c++) {
      panel[c * kColumns + j] = j < count ? from[c / kBlock * s.plane + c % kBlock] : 0.0f;
    }
  }
}

// Scores of a chunk, [key][width], become weights exp2(score - maximum), column by column. `factor`
// is what the sums so far are to be multiplied by. A few keys of kLanes columns a step.
class Softmax {
 public:
  Softmax(float* scores, int64_t keys, int64_t width, float* maximum, float* sum, float* factor)
      : scores_(scores),
        keys_(keys),
        width_(width),
        maximum_(maximum),
        sum_(sum),
        factor_(factor) {}

  // False: all is done.
  bool step() {
    if (column_ == width_) return false;
    if (key_ == 0) {
      V most = hn::LoadU(d, maximum_ + column_);
      for (int64_t k = 0; k < keys_; k++) most = hn::Max(most, hn::LoadU(d, score(k)));
      hn::StoreU(weight_of(hn::LoadU(d, maximum_ + column_), most), d, factor_ + column_);
      hn::StoreU(most, d, maximum_ + column_);
      hn::StoreU(hn::Zero(d), d, total_);
    }
    const V most = hn::LoadU(d, maximum_ + column_);
    V total = hn::LoadU(d, total_);
    for (const int64_t end = std::min(key_ + kKeysOfStep, keys_); key_ < end; key_++) {
      const V weight = weight_of(hn::LoadU(d, score(key_)), most);
      total = hn::Add(total, weight);
      hn::StoreU(weight, d, score(key_));
    }
    hn::StoreU(total, d, total_);
    if (key_ < keys_) return true;
    const V before = hn::LoadU(d, sum_ + column_);
    hn::StoreU(hn::MulAdd(before, hn::LoadU(d, factor_ + column_), total), d, sum_ + column_);
    key_ = 0;
    column_ += kLanes;
    return true;
  }

 private:
  static constexpr int64_t kKeysOfStep = 8;
  HWY_INLINE static V weight_of(V score, V most) {
    return exp2_bounded(hn::Max(hn::Sub(score, most), hn::Set(d, -126.0f)));
  }
  float* score(int64_t key) const { return scores_ + key * width_ + column_; }

  float* scores_;
  int64_t keys_, width_;
  float *maximum_, *sum_, *factor_;
  int64_t column_ = 0, key_ = 0;
  float total_[kBlock];
};

// Column by column of [channel][kColumns].
void scale_panel(const AttentionShape& s, const float* factor, float* panel) {
  for (int64_t j = 0; j < kColumns; j += kLanes) {
    const V scale = hn::LoadU(d, factor + j);
    if (hn::AllTrue(d, hn::Eq(scale, hn::Set(d, 1.0f)))) continue;
    for (int64_t c = 0; c < s.padded; c++) {
      float* value = panel + c * kColumns + j;
      hn::StoreU(hn::Mul(hn::LoadU(d, value), scale), d, value);
    }
  }
}

// Projects averages of x, [channel][kColumns], of the block's queries from `panel` on, and adds
// them to x. `result` is as large.
void finish_panel(const AttentionCall& call, const AttentionShape& s,
                  const AttentionProjections& weights, const AttentionBlock& b, int64_t panel,
                  const float* averages, float* result) {
  project(s, weights.out, weights.out_bias, averages, result);
  const float* in = static_cast<const float*>(call.x.data) + b.picture * call.x.picture_stride;
  float* y = static_cast<float*>(call.y.data) + b.picture * call.y.picture_stride;
  const int64_t first = b.first + panel * kColumns;
  const int64_t count = std::min(kColumns, b.first + b.queries - first);
  for (int64_t j = 0; j < count; j++) {
    const int64_t at = (first + j) * s.channels;
    for (int64_t c = 0; c < s.channels; c++) y[at + c] = in[at + c] + result[c * kColumns + j];
  }
}

}  // namespace
// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace calotype::cpu
HWY_AFTER_NAMESPACE();

#endif  // CALOTYPE_CPU_ATTENTION_INL_H_
