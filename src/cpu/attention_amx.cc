// Attention with both products by tiles of AMX, in float32 of three bf16.
//
// Scores are [key][query]: keys times queries. Averages are [query][channel]: weights times keys.
// Both as x lies in memory, so that of all operands only the weights are transposed, the smallest.
// A chunk of keys is split once for both, during the averages of the chunk before.
//
// Averages are of two bf16 each: an error of 2^-17 of a weight or a value, one of thousands that
// are summed, is an error of as much of the average. An error of a score would be one of its
// exponent.
#include "cpu/attention_shape.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/attention_amx.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.
#include "cpu/attention-inl.h"
#include "cpu/split-inl.h"
#include "hwy/highway.h"

#ifndef CALOTYPE_CPU_ATTENTION_AMX_ONCE
#define CALOTYPE_CPU_ATTENTION_AMX_ONCE
#include <optional>

namespace calotype::cpu {

constexpr int64_t kPanel = 32;    // columns of a product of tiles, and its depth at a time
constexpr int64_t kAmxKeys = 96;  // of a chunk: a fifth of kKeys
static_assert(kKeys % kAmxKeys == 0 && kAmxKeys % kPanel == 0 && kAmxQueries % kPanel == 0 &&
              kAmxQueriesOfFew % kPanel == 0);

// A thread's scratch: at 512 channels 2.0 MB, in an L2 of two.
struct AmxScratch {
  AmxScratch(const AttentionShape& s, float* memory)
      : most_queries(s.amx_queries()),
        average_stride(s.padded + kBlock),
        panel(memory),
        result(panel + kPanel * s.padded),
        averages(result + kPanel * s.padded),
        scores(averages + most_queries * average_stride),
        maximum(scores + most_queries * kAmxKeys),
        sum(maximum + most_queries),
        factor(sum + most_queries),
        queries(bf16(factor + most_queries)),
        weights(queries + 3 * most_queries * s.padded),
        keys(weights + kParts * most_queries * kAmxKeys),
        values{keys + 3 * kAmxKeys * s.padded, keys + (3 + kParts) * kAmxKeys * s.padded} {}
  static constexpr int64_t kParts = 2;  // of weights and values
  static uint16_t* bf16(float* p) { return reinterpret_cast<uint16_t*>(p); }

  int64_t most_queries;
  int64_t average_stride;  // rows of a power of two would share their sets of the cache
  float *panel, *result;   // [channel][kColumns]
  float* averages;         // [query][channel], sums until the end
  float* scores;           // [query / 32][key][query % 32]
  float *maximum, *sum, *factor;
  uint16_t* queries;    // B of scores, [query / 32]
  uint16_t* weights;    // A of averages
  uint16_t* keys;       // A of scores
  uint16_t* values[2];  // B of averages, [channel / 32], of a chunk and of the next
};

struct AmxAttention {
  AmxUnit unit;
  const AttentionCall& call;
  const AttentionShape& s;
  const AttentionProjections& weights;
  const AttentionBlock& b;
  const float* x;  // normed
  const Proceed& proceed;
};

}  // namespace calotype::cpu
#endif  // CALOTYPE_CPU_ATTENTION_AMX_ONCE

HWY_BEFORE_NAMESPACE();
namespace calotype::cpu {
namespace HWY_NAMESPACE {

// Keys [0, keys) at `x`, and zeros up to whole panels, become A of scores and B of averages, step
// by step: while tiles make the averages of the chunk before.
class SplitKeys {
 public:
  SplitKeys(const AttentionShape& s, const float* x, int64_t keys, uint16_t* of_keys,
            uint16_t* of_values)
      : x_(x),
        plane_(s.plane),
        pairs_(s.blocks / 2),
        keys_(keys),
        padded_(round_up(keys, kPanel)),
        part_(s.padded * padded_),
        of_keys_(of_keys),
        of_values_(of_values) {}
  int64_t keys() const { return keys_; }
  int64_t padded() const { return padded_; }

  // A key and the sixteenth after it, 32 channels of both. False: all is done.
  bool step() {
    if (pair_ == pairs_) return false;
    const float* from = x_ + 2 * pair_ * plane_ + key_ * kBlock;
    for (int64_t block = 2; block < 4; block++) {  // of the channels that come next
      __builtin_prefetch(from + block * plane_);
      __builtin_prefetch(from + block * plane_ + kBlock * kBlock);
    }
    uint16_t* const to_keys = of_keys_ + (pair_ * padded_ + key_) * kPanel;
    uint16_t* const to_values =
        of_values_ + (pair_ * padded_ + key_ / kPanel * kPanel) * AmxScratch::kParts * kPanel +
        key_ % kPanel * kPanel;
    for (int64_t c = 0; c < kBlock; c += kLanes) {
      const auto at = [&](int64_t later, int64_t block) HWY_ATTR {
        const float* value = from + block * plane_ + later * kBlock + c;
        return key_ + later < keys_ ? hn::LoadU(d, value) : hn::Zero(d);
      };
      const V early[2] = {at(0, 0), at(0, 1)}, late[2] = {at(kBlock, 0), at(kBlock, 1)};
      store_split(split(early[0]), split(early[1]), part_, to_keys + 2 * c);
      store_split(split(late[0]), split(late[1]), part_, to_keys + kBlock * kPanel + 2 * c);
      for (int64_t block = 0; block < 2; block++) {
        store_split_of_b(split_of_two(early[block]), split_of_two(late[block]),
                         to_values + block * kBlock * kPanel + 2 * c);
      }
    }
    key_++;
    if (key_ % kBlock == 0) key_ += kBlock;
    if (key_ < padded_) return true;
    key_ = 0;
    pair_++;
    return true;
  }
  static void some(void* work) { static_cast<SplitKeys*>(work)->step(); }

 private:
  const float* x_;
  int64_t plane_, pairs_, keys_, padded_, part_;  // bf16 between parts
  uint16_t *of_keys_, *of_values_;
  int64_t pair_ = 0, key_ = 0;  // of the next step
};

// Sixteen rows of sixteen pairs to columns, 16 pairs apart; those to rows `stride` pairs apart.
HWY_INLINE void transpose_pairs(const uint32_t* in, int64_t stride, uint32_t* out) {
  const hn::RebindToUnsigned<D> du;
  const hn::Repartition<uint64_t, decltype(du)> du64;
  HWY_ALIGN uint32_t columns[4][kLanes];
  for (int64_t row = 0; row < kBlock; row += 4) {
    for (int64_t c = 0; c < kBlock; c += kLanes) {
      const uint32_t* from = in + row * kBlock + c;
      const auto r0 = hn::LoadU(du, from), r1 = hn::LoadU(du, from + kBlock),
                 r2 = hn::LoadU(du, from + 2 * kBlock), r3 = hn::LoadU(du, from + 3 * kBlock);
      const auto lower_01 = hn::BitCast(du64, hn::InterleaveLower(du, r0, r1)),
                 lower_23 = hn::BitCast(du64, hn::InterleaveLower(du, r2, r3)),
                 upper_01 = hn::BitCast(du64, hn::InterleaveUpper(du, r0, r1)),
                 upper_23 = hn::BitCast(du64, hn::InterleaveUpper(du, r2, r3));
      // Column 4 i + j is the i-th four of vector j.
      hn::Store(hn::BitCast(du, hn::InterleaveLower(du64, lower_01, lower_23)), du, columns[0]);
      hn::Store(hn::BitCast(du, hn::InterleaveUpper(du64, lower_01, lower_23)), du, columns[1]);
      hn::Store(hn::BitCast(du, hn::InterleaveLower(du64, upper_01, upper_23)), du, columns[2]);
      hn::Store(hn::BitCast(du, hn::InterleaveUpper(du64, upper_01, upper_23)), du, columns[3]);
      for (int64_t i = 0; i < kLanes; i += 4) {
        for (int64_t j = 0; j < 4; j++)
          std::memcpy(out + (c + i + j) * stride + row, &columns[j][i], 4 * sizeof(uint32_t));
      }
    }
  }
}

// Scores of `keys` keys, [key][32 queries], of panel `panel` become weights, and those A of
// averages, step by step: while tiles make the scores of the next panel.
class PanelWeights {
 public:
  PanelWeights(const AmxScratch& scratch, int64_t panel, int64_t keys)
      : scores_(scratch.scores + panel * kAmxKeys * kPanel),
        padded_(round_up(keys, kPanel)),
        part_(scratch.most_queries * padded_),
        step_(scratch.most_queries * kPanel),
        out_(scratch.weights + panel * kPanel * kPanel),
        softmax_(scores_, keys, kPanel, scratch.maximum + panel * kPanel,
                 scratch.sum + panel * kPanel, scratch.factor + panel * kPanel) {
    std::fill_n(scores_ + keys * kPanel, (padded_ - keys) * kPanel, 0.0f);
  }
  // False: all is done.
  bool step() {
    if (softmax_.step()) return true;
    if (key_ == padded_) return false;
    split_weights();
    query_ = (query_ + kBlock) % kPanel;
    if (query_ == 0) key_ += kPanel;
    return true;
  }
  static void some(void* work) { static_cast<PanelWeights*>(work)->step(); }

 private:
  // Of 32 keys and 16 queries.
  void split_weights() {
    HWY_ALIGN uint16_t pairs[AmxScratch::kParts][kBlock * kBlock * 2];
    for (int64_t k = 0; k < kBlock; k++) {
      const float* from = scores_ + (key_ + k) * kPanel + query_;
      for (int64_t c = 0; c < kBlock; c += kLanes) {
        store_split(split_of_two(hn::LoadU(d, from + c)),
                    split_of_two(hn::LoadU(d, from + kBlock * kPanel + c)), kBlock * kBlock * 2,
                    pairs[0] + (k * kBlock + c) * 2);
      }
    }
    uint16_t* out = out_ + key_ / kPanel * step_ + query_ * kPanel;
    for (int64_t p = 0; p < AmxScratch::kParts; p++) {
      transpose_pairs(reinterpret_cast<const uint32_t*>(pairs[p]), kPanel / 2,
                      reinterpret_cast<uint32_t*>(out + p * part_));
    }
  }

  float* scores_;
  int64_t padded_, part_, step_;  // bf16 between parts, and between each 32 keys
  uint16_t* out_;
  Softmax softmax_;
  int64_t key_ = 0, query_ = 0;  // to be split next
};

void scale_rows(const AttentionShape& s, int64_t panel, const AmxScratch& scratch) {
  for (int64_t query = panel * kPanel; query < (panel + 1) * kPanel; query++) {
    if (scratch.factor[query] == 1) continue;
    const V factor = hn::Set(d, scratch.factor[query]);
    float* row = scratch.averages + query * scratch.average_stride;
    for (int64_t c = 0; c < s.padded; c += kLanes)
      hn::StoreU(hn::Mul(hn::LoadU(d, row + c), factor), d, row + c);
  }
}

// Weights of a chunk of keys, which are split, for all panels of queries.
void make_weights(const AmxAttention& a, const SplitKeys& chunk, int64_t panels,
                  const AmxScratch& scratch) {
  const AttentionShape& s = a.s;
  SplitProduct score;
  score.a = scratch.keys;
  score.a_part = s.padded * chunk.padded();
  score.a_step = chunk.padded() * kPanel;
  score.depth = s.padded;
  score.rows = chunk.padded();
  score.c_stride = kPanel;
  score.c_block_stride = kBlock;
  std::optional<PanelWeights> before;
  for (int64_t panel = 0; panel <= panels; panel++) {
    if (panel < panels) {
      score.b = scratch.queries + panel * 3 * kPanel * s.padded;
      score.c = scratch.scores + panel * kAmxKeys * kPanel;
      score.beside = before ? before->some : nullptr;
      score.work = before ? &*before : nullptr;
      multiply(a.unit, score);
    }
    if (before) {
      while (before->step()) {
      }
      scale_rows(s, panel - 1, scratch);
    }
    if (panel < panels) before.emplace(scratch, panel, chunk.keys());
  }
}

// Adds a chunk's values, `padded` of them by their weights, to the averages. `next`: the chunk that
// is split meanwhile, or null.
void add_averages(const AmxAttention& a, int64_t padded, const uint16_t* values, int64_t panels,
                  SplitKeys* next, const AmxScratch& scratch) {
  const AttentionShape& s = a.s;
  SplitProduct average;
  average.parts = AmxScratch::kParts;
  average.a = scratch.weights;
  average.a_part = scratch.most_queries * padded;
  average.a_step = scratch.most_queries * kPanel;
  average.depth = padded;
  average.rows = panels * kPanel;
  average.c_stride = scratch.average_stride;
  average.c_block_stride = kBlock;
  average.accumulate = true;
  average.beside = next != nullptr ? next->some : nullptr;
  average.work = next;
  for (int64_t c = 0; c < s.padded; c += kPanel) {
    average.b = values + AmxScratch::kParts * c * padded;
    average.c = scratch.averages + c;
    multiply(a.unit, average);
  }
}

void AmxAttentionBlockRun(const AmxAttention& a, float* memory) {
  const AttentionShape& s = a.s;
  const AmxScratch scratch(s, memory);
  const int64_t panels = divide_up(a.b.queries, kPanel);
  for (int64_t first = 0; first < panels * kPanel; first += kColumns) {
    gather_panel(s, a.x, a.b.first + first, a.b.queries - first, scratch.result);
    project(s, a.weights.query, a.weights.query_bias, scratch.result, scratch.panel);
    uint16_t* out = scratch.queries + first / kPanel * 3 * kPanel * s.padded;
    for (int64_t channel = 0; channel < s.padded / 2; channel++) {
      // The other sixteen of 32 go with the first.
      const float* row = scratch.panel + (channel / kBlock * kPanel + channel % kBlock) * kColumns;
      uint16_t* to = out + channel / kBlock * kSplitPanel + channel % kBlock * kPanel;
      for (int64_t j = 0; j < kColumns; j += kLanes) {
        store_split_of_b(split(hn::LoadU(d, row + j)),
                         split(hn::LoadU(d, row + kBlock * kColumns + j)),
                         to + (first + j) % kPanel / kBlock * (kSplitPanel / 6) + j % kBlock * 2);
      }
    }
  }
  std::fill_n(scratch.averages, panels * kPanel * scratch.average_stride, 0.0f);
  std::fill_n(scratch.maximum, scratch.most_queries, -1e30f);
  std::fill_n(scratch.sum, scratch.most_queries, 0.0f);
  const auto chunk_at = [&](int64_t key) {
    const float* x = a.x + key / kKeys * s.blocks * s.plane + key % kKeys * kBlock;
    return SplitKeys(s, x, std::min(kAmxKeys, s.tokens - key), scratch.keys,
                     scratch.values[key / kAmxKeys % 2]);
  };
  SplitKeys chunk = chunk_at(0);
  for (int64_t key = 0; key < s.tokens; key += kAmxKeys) {
    if (key % kKeys == 0 && !a.proceed()) return;
    while (chunk.step()) {
    }
    make_weights(a, chunk, panels, scratch);
    const int64_t padded = chunk.padded();
    const bool last = key + kAmxKeys >= s.tokens;
    if (!last) chunk = chunk_at(key + kAmxKeys);
    add_averages(a, padded, scratch.values[key / kAmxKeys % 2], panels, last ? nullptr : &chunk,
                 scratch);
  }
  for (int64_t panel = 0; panel * kColumns < a.b.queries; panel++) {
    float* sum = scratch.sum + panel * kColumns;
    for (int64_t j = 0; j < kColumns; j++) {
      const float* row = scratch.averages + (panel * kColumns + j) * scratch.average_stride;
      for (int64_t c = 0; c < s.padded; c++) scratch.panel[c * kColumns + j] = row[c];
      sum[j] = 1 / sum[j];
    }
    scale_panel(s, sum, scratch.panel);
    finish_panel(a.call, s, a.weights, a.b, panel, scratch.panel, scratch.result);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace calotype::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace calotype::cpu {

CALOTYPE_EXPORT(AmxAttentionBlockRun);

bool attention_takes_amx(const Simd& simd, Extent x) {
  return simd.amx && AttentionShape(x).padded % kPanel == 0;
}

int64_t amx_attention_floats(const AttentionShape& s) {
  const int64_t queries = s.amx_queries();
  const int64_t bf16 = 3 * (queries + kAmxKeys) * s.padded +
                       AmxScratch::kParts * kAmxKeys * (queries + 2 * s.padded);
  return 2 * kPanel * s.padded + queries * (s.padded + kBlock + kAmxKeys + 3) + bf16 / 2;
}

void amx_attention_block(const Simd& simd, const AttentionCall& call, const AttentionShape& s,
                         const AttentionProjections& weights, const AttentionBlock& b,
                         const float* x, const Proceed& proceed, float* scratch) {
  const AmxJob tiles(*simd.amx);
  CALOTYPE_DISPATCH(AmxAttentionBlockRun, simd)
  (AmxAttention{*simd.amx, call, s, weights, b, x, proceed}, scratch);
}

}  // namespace calotype::cpu
#endif  // HWY_ONCE
