// Softmax does not see what is constant along a row, so with x normed
//   q . k = (x Wq^T + bq) . (x' Wk^T + bk)  ~  (x Wq^T Wk + bq Wk) . x'
// and rows of softmax sum to 1, so
//   out(softmax v) = (softmax x') (Wout Wv)^T + Wout bv + bout.
// Keys and values are then one tensor, x itself: two projections instead of four, one tile to load
// instead of two. Softmax is taken with a running maximum and sum over chunks of keys (Milakov and
// Gimelshein 2018), so nothing as large as tokens^2 exists.
//
// Everything a block of queries owns is transposed: its queries are the columns, that is the lanes
// of a vector. Maxima, sums and rescaling are then plain vector arithmetic, and x serves as A of
// both products as it lies in memory.
#include "cpu/attention.h"

#include <atomic>
#include <cmath>

#include "cpu/attention_shape.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/attention.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.
#include "cpu/attention-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace calotype::cpu {
namespace HWY_NAMESPACE {

// Norms one chunk of a picture's tokens into [channel / 16][token][16]; missing channels are zeros.
void NormChunk(const AttentionCall& call, const FoldedNorm& folded, const AttentionShape& s,
               int64_t picture, int64_t chunk, float* out) {
  const NormPointers norm = {folded.mean(picture), folded.scale(picture), folded.shift(picture)};
  const float* x = static_cast<const float*>(call.x.data) + picture * call.x.picture_stride;
  const int64_t first = chunk * kKeys, tokens = std::min(kKeys, s.tokens - first);
  for (int64_t t = 0; t < tokens; t++) {
    const float* pixel = x + (first + t) * s.channels;
    for (int64_t c = 0; c < s.padded; c += kLanes) {
      const V v = read<Reading::kNorm>(load_part(pixel + c, s.channels - c), norm, c);
      hn::StoreU(v, d, out + c / kBlock * s.plane + t * kBlock + c % kBlock);
    }
  }
}

// One chunk of keys for all panels of queries.
void attend_chunk(const AttentionShape& s, const float* x, int64_t keys, int64_t panels,
                  const float* queries, float* scores, float* sums_of_x, float* maximum,
                  float* sum) {
  const int64_t panel_floats = s.padded * kColumns;
  Product score;
  score.chunk_stride = s.plane;
  score.k = s.padded;
  score.c_stride = kColumns;
  score.c_block_stride = kBlock;
  for (int64_t k = 0; k < keys; k += kKeysAtOnce) {
    for (int64_t panel = 0; panel < panels; panel++) {
      score.a = x + k * kBlock;
      score.b = queries + panel * panel_floats;
      score.c = scores + (panel * keys + k) * kColumns;
      product<kColumnBlocks, Layout::kRowsOf16>(score, std::min(kKeysAtOnce, keys - k));
    }
  }
  for (int64_t panel = 0; panel < panels; panel++) {
    HWY_ALIGN float factor[kColumns];
    Softmax softmax(scores + panel * keys * kColumns, keys, kColumns, maximum + panel * kColumns,
                    sum + panel * kColumns, factor);
    while (softmax.step()) {
    }
    scale_panel(s, factor, sums_of_x + panel * panel_floats);
  }
  Product average;
  average.k = keys;
  average.c_stride = kColumns;
  average.c_block_stride = kBlock;
  average.accumulate = true;
  for (int64_t block = 0; block < s.blocks; block++) {
    for (int64_t panel = 0; panel < panels; panel++) {
      average.a = x + block * s.plane;
      average.b = scores + panel * keys * kColumns;
      average.c = sums_of_x + panel * panel_floats + block * kBlock * kColumns;
      product<kColumnBlocks, Layout::kColumnsOf16>(average, kBlock);
    }
  }
}

// `x` is the normed picture, `scratch` the thread's.
void AttentionBlockRun(const AttentionCall& call, const AttentionShape& s,
                       const AttentionProjections& weights, const AttentionBlock& b, const float* x,
                       const Proceed& proceed, float* scratch) {
  const int64_t panels = divide_up(b.queries, kColumns), panel_floats = s.padded * kColumns;
  float* queries = scratch;
  float* sums_of_x = queries + kQueries * s.padded;
  float* scores = sums_of_x + kQueries * s.padded;
  float* maximum = scores + kQueries * std::min(kKeys, s.tokens);
  float* sum = maximum + kQueries;
  for (int64_t panel = 0; panel < panels; panel++) {
    const int64_t first = panel * kColumns;
    gather_panel(s, x, b.first + first, b.queries - first, sums_of_x);
    project(s, weights.query, weights.query_bias, sums_of_x, queries + panel * panel_floats);
  }
  std::fill_n(sums_of_x, panels * panel_floats, 0.0f);
  std::fill_n(maximum, kQueries, -1e30f);
  std::fill_n(sum, kQueries, 0.0f);
  for (int64_t chunk = 0; chunk < s.chunks; chunk++) {
    if (!proceed()) return;
    attend_chunk(s, x + chunk * s.blocks * s.plane, std::min(kKeys, s.tokens - chunk * kKeys),
                 panels, queries, scores, sums_of_x, maximum, sum);
  }
  for (int64_t panel = 0; panel < panels; panel++) {
    float* averages = sums_of_x + panel * panel_floats;
    for (int64_t j = 0; j < kColumns; j++)
      sum[panel * kColumns + j] = 1 / sum[panel * kColumns + j];
    scale_panel(s, sum + panel * kColumns, averages);
    finish_panel(call, s, weights, b, panel, averages, queries + panel * panel_floats);
  }
}

// Sums of the pixels of some rows.
void SumPixels(const float* y, int64_t pixels, int64_t channels, const BlockSums& sums) {
  for (int64_t c = 0; c < channels; c += kLanes) {
    const V shift = load_part(y + c, channels - c);
    V sum = hn::Zero(d), square = hn::Zero(d);
    for (int64_t p = 0; p < pixels; p++) {
      const V centred = hn::Sub(load_part(y + p * channels + c, channels - c), shift);
      sum = hn::Add(sum, centred);
      square = hn::MulAdd(centred, centred, square);
    }
    hn::StoreU(shift, d, sums.shift + c);
    hn::StoreU(sum, d, sums.sum + c);
    hn::StoreU(square, d, sums.square + c);
  }
}

// Sixteen columns of the product of two projections, as A's layout wants them: `left` is
// [o / 16][out][o % 16], `right` [o][16 of in], the result [out][16 of in].
void FoldPanel(const AttentionShape& s, const float* left, const float* right, float* result) {
  Product p;
  p.a = left;
  p.chunk_stride = s.padded * kBlock;
  p.b = right;
  p.k = s.padded;
  p.c = result;
  p.c_stride = kBlock;
  product<1, Layout::kRowsOf16>(p, s.padded);
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace calotype::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace calotype::cpu {

CALOTYPE_EXPORT(NormChunk);
CALOTYPE_EXPORT(AttentionBlockRun);
CALOTYPE_EXPORT(SumPixels);
CALOTYPE_EXPORT(FoldPanel);

namespace {

std::vector<float> floats(const TensorView& view) {
  std::vector<float> values(static_cast<size_t>(view.size()));
  copy_elements(view, 0, std::span<float>(values));
  return values;
}

// Folds query and key, value and output projections into `work.projections`.
AttentionProjections fold_projections(const Simd& simd, const AttentionWeights& w,
                                      const AttentionShape& s, Workspace& work, Stages& stages) {
  const int64_t c = s.channels, n = s.padded, square = n * n;
  float* memory = work.projections.reserve(s.projection_floats());
  float* const results[2] = {memory, memory + square};
  float* const lefts[2] = {memory + 2 * square, memory + 3 * square};
  float* const rights[2] = {memory + 4 * square, memory + 5 * square};
  float* const biases[2] = {memory + 6 * square, memory + 6 * square + n};
  ThreadPool& pool = ThreadPool::shared();

  // exp(q . k / sqrt(c)) = 2^(q . k log2(e) / sqrt(c))
  const double scale = 1.4426950408889634 / std::sqrt(static_cast<double>(c));
  const auto load_row = [&](int64_t row, int) {
    std::vector<float> values(static_cast<size_t>(n), 0.0f);
    const std::span<float> part(values.data(), static_cast<size_t>(row < c ? c : 0));
    const auto load = [&](const TensorView& matrix) {
      if (row < c) copy_elements(matrix, row * c, part);
    };
    load(w.key);
    for (int64_t i = 0; i < n; i++) {
      lefts[0][(row / kBlock * n + i) * kBlock + row % kBlock] =
          static_cast<float>(scale * values[static_cast<size_t>(i)]);
    }
    load(w.out);
    for (int64_t i = 0; i < n; i++) {
      lefts[1][(i / kBlock * n + row) * kBlock + i % kBlock] = values[static_cast<size_t>(i)];
    }
    load(w.query);
    std::copy(values.begin(), values.end(), rights[0] + row * n);
    load(w.value);
    std::copy(values.begin(), values.end(), rights[1] + row * n);
  };
  pool.parallel_for(work.threads, n, load_row, stages.next(0.01, n));

  const auto fold = CALOTYPE_DISPATCH(FoldPanel, simd);
  const auto fold_panel = [&](int64_t job, int slot) {
    const int64_t which = job / s.blocks, block = job % s.blocks;
    float* right = work.slot(slot, n * kBlock);
    for (int64_t o = 0; o < n; o++) {
      std::copy_n(rights[which] + o * n + block * kBlock, kBlock, right + o * kBlock);
    }
    fold(s, lefts[which], right, results[which] + block * n * kBlock);
  };
  pool.parallel_for(work.threads, 2 * s.blocks, fold_panel, stages.next(0.01, 2 * s.blocks));

  const std::vector<float> query_bias = floats(w.query_bias), value_bias = floats(w.value_bias),
                           out_bias = floats(w.out_bias);
  for (int64_t i = 0; i < n; i++) {
    double query = 0, out = i < c ? out_bias[static_cast<size_t>(i)] : 0;
    for (int64_t o = 0; o < c; o++) {
      const auto at = static_cast<size_t>((o / kBlock * n + i) * kBlock + o % kBlock);
      query += static_cast<double>(query_bias[static_cast<size_t>(o)]) * lefts[0][at];
      out += static_cast<double>(value_bias[static_cast<size_t>(o)]) * lefts[1][at];
    }
    biases[0][i] = static_cast<float>(query);
    biases[1][i] = static_cast<float>(out);
  }
  return {results[0], biases[0], results[1], biases[1]};
}

void sum_bands(const Simd& simd, const AttentionCall& call, Workspace& work, Stages& stages) {
  const Extent e = call.y.extent;
  const int64_t bands = divide_up(e.h, kAttentionBandRows), units = call.batch * bands;
  work.sums.reset(units, e.c);
  const auto sum_pixels = CALOTYPE_DISPATCH(SumPixels, simd);
  const auto sum_band = [&](int64_t unit, int) {
    const int64_t row = unit % bands * kAttentionBandRows;
    const int64_t pixels = std::min(kAttentionBandRows, e.h - row) * e.w;
    const float* y = static_cast<const float*>(call.y.data) + unit / bands * call.y.picture_stride +
                     row * e.w * e.c;
    sum_pixels(y, pixels, e.c, work.sums.at(unit));
    work.sums.set_count(unit, pixels);
  };
  ThreadPool::shared().parallel_for(work.threads, units, sum_band, stages.next(0.01, units));
  merge_sums(work.sums, e.c, 1, 0, bands, *call.y_stats);
}

}  // namespace

WorkspaceBytes attention_workspace(const Simd& simd, Extent x, int64_t batch, int threads) {
  const AttentionShape s(x);
  const int64_t slot = attention_takes_amx(simd, x) ? amx_attention_floats(s) : s.slot_floats();
  WorkspaceBytes bytes = workspace_bytes(threads, std::max(slot, s.padded * kBlock),
                                         batch * divide_up(x.h, kAttentionBandRows), s.channels);
  bytes.attention =
      Buffer::bytes_for(s.projection_floats()) + Buffer::bytes_for(batch * s.x_floats());
  return bytes;
}

double attention_flop(Extent x) {
  const double tokens = static_cast<double>(x.h * x.w), c = static_cast<double>(x.c);
  return 2 * (tokens * c * (2 * c + 2 * tokens) + 2 * c * c * c);
}

void attention(const Simd& simd, const AttentionCall& call, const FoldedNorm& norm, Workspace& work,
               Stages& stages) {
  const AttentionShape s(call.x.extent);
  const AttentionProjections weights = fold_projections(simd, call.node->weights, s, work, stages);
  float* x = work.keys.reserve(call.batch * s.x_floats());
  ThreadPool& pool = ThreadPool::shared();

  const auto norm_chunk = CALOTYPE_DISPATCH(NormChunk, simd);
  const int64_t chunks = call.batch * s.chunks, chunk_floats = s.blocks * s.plane;
  pool.parallel_for(
      work.threads, chunks,
      [&](int64_t i, int) {
        norm_chunk(call, norm, s, i / s.chunks, i % s.chunks, x + i * chunk_floats);
      },
      stages.next(0.01, chunks));

  // Smaller blocks where there would be too few for all threads; results do not depend on it.
  const int64_t wanted = divide_up(s.tokens * call.batch, int64_t{3} * work.threads);
  const bool by_amx = attention_takes_amx(simd, call.x.extent);
  const int64_t queries =
      std::clamp(round_up(wanted, kWidestPanel), kWidestPanel, by_amx ? s.amx_queries() : kQueries);
  const int64_t blocks = divide_up(s.tokens, queries), jobs = call.batch * blocks;
  const auto run = CALOTYPE_DISPATCH(AttentionBlockRun, simd);
  const ThreadPool::Tick tick = stages.next(0.96, jobs);
  std::atomic<int64_t> done{0};
  std::atomic<bool> stopped{false};
  pool.parallel_for(work.threads, jobs, [&](int64_t job, int slot) {
    AttentionBlock b;
    b.picture = job / blocks;
    b.first = job % blocks * queries;
    b.queries = std::min(queries, s.tokens - b.first);
    const Proceed proceed = [&] {
      if (slot != 0) return !stopped.load();
      try {  // slot 0 is the calling thread
        tick(done);
      } catch (...) {
        stopped = true;
        throw;
      }
      return true;
    };
    const float* picture = x + b.picture * s.x_floats();
    if (by_amx) {
      amx_attention_block(simd, call, s, weights, b, picture, proceed,
                          work.slot(slot, amx_attention_floats(s)));
    } else {
      run(call, s, weights, b, picture, proceed, work.slot(slot, s.slot_floats()));
    }
    done++;
  });
  if (call.y_stats != nullptr) sum_bands(simd, call, work, stages);
}

}  // namespace calotype::cpu
#endif  // HWY_ONCE
