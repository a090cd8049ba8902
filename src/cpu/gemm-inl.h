// The register tile: the one matrix product that convolutions and attention are made of.
// Included once a target.

#if defined(CALOTYPE_CPU_GEMM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CALOTYPE_CPU_GEMM_INL_H_
#undef CALOTYPE_CPU_GEMM_INL_H_
#else
#define CALOTYPE_CPU_GEMM_INL_H_
#endif

#include <utility>

#include "cpu/vector-inl.h"

HWY_BEFORE_NAMESPACE();
namespace calotype::cpu {
namespace HWY_NAMESPACE {
namespace {

// Rows and columns of the register tile. A tile needs rows * columns / lanes accumulators, columns
// / lanes vectors of B and one of A:
//   AVX-512  12 x 32: 24 + 2 + 1 of 32 registers
//   AVX2      6 x 16: 12 + 2 + 1 of 16
//   NEON      6 x 16: 24 + 4 + 1 of 32
//   SSE4      2 x 16:  8 + 4 + 1 of 16
// and enough accumulators to hide the latency of an FMA (4 cycles, 2 a cycle: 8).
#if HWY_TARGET == HWY_AVX3
constexpr int kRows = 12;
constexpr int kColumnBlocks = 2;
#else
constexpr int kRows = CALOTYPE_FEW_REGISTERS ? 2 : 6;
constexpr int kColumnBlocks = 1;
#endif
constexpr int64_t kColumns = kColumnBlocks * kBlock;  // of a panel of B

// How A lies in memory; (r, k) is at
enum class Layout {
  kRowsOf16,     // k / 16 * chunk_stride + r * 16 + k % 16
  kTilesOf16,    // what kRowsOf16 reads, in the order of reading: see RowTiles
  kColumnsOf16,  // k * 16 + r
  kStrided,      // r * row_stride + k
};

// How `rows` rows are cut into register tiles, as even as can be: 13 = 5 + 4 + 4, not 6 + 6 + 1.
struct RowTiles {
  explicit RowTiles(int64_t rows)
      : count(divide_up(rows, kRows)), least(rows / count), larger(rows % count) {}
  int64_t count, least, larger;  // the first `larger` tiles have one row more than `least`

  int64_t rows(int64_t tile) const { return least + (tile < larger ? 1 : 0); }
  // Of the tile that row r is in, and its first row.
  std::pair<int64_t, int64_t> rows_and_first(int64_t r) const {
    const int64_t in_larger = larger * (least + 1);
    if (r < in_larger) return {least + 1, r / (least + 1) * (least + 1)};
    return {least, in_larger + (r - in_larger) / least * least};
  }
  // kTilesOf16: row r's first 16 of `depth`, and how far apart each 16 are.
  std::pair<int64_t, int64_t> place(int64_t r, int64_t depth) const {
    const auto [rows, first] = rows_and_first(r);
    return {first * depth + (r - first) * kBlock, rows * kBlock};
  }
};

// Memory that is asked for while something else is multiplied.
struct Prefetch {
  const float* from = nullptr;
  int lines = 0;  // with every 16 k
};

// C[r][j] (+)= sum over k of A[r][k] * B[k][j]; k goes up, one FMA after the other, whatever the
// tile: a result depends on its row of A and its column of B alone.
struct Product {
  const float* a = nullptr;
  int64_t row_stride = 0;    // kStrided
  int64_t pieces = 1;        // kStrided: of k each, one below the other in B
  int64_t piece_stride = 0;  // and so far apart in A
  int64_t chunk_stride = 0;  // kRowsOf16
  int64_t depth = 0;         // kTilesOf16: k of the whole A, of which `skip` come before
  int64_t skip = 0;          // what is multiplied
  const float* b = nullptr;  // [k][columns], columns 16 or 32
  int64_t k = 0;
  float* c = nullptr;  // element (r, j) at c[r * c_stride + j / 16 * c_block_stride + j % 16]
  int64_t c_stride = 0;
  int64_t c_block_stride = 0;
  bool accumulate = false;  // add to what C holds
  Prefetch next_b, next_a;  // of products to come
};

template <Layout kLayout>
HWY_INLINE int64_t row_stride_of(const Product& p) {
  if constexpr (kLayout == Layout::kRowsOf16 || kLayout == Layout::kTilesOf16) return kBlock;
  if constexpr (kLayout == Layout::kColumnsOf16) return 1;
  return p.row_stride;
}

HWY_INLINE void fetch(const float* HWY_RESTRICT& from, int lines) {
  for (int line = 0; line < lines; line++) {
    __builtin_prefetch(from, 0, 2);
    from += 16;
  }
}

// One k: every row of A times the panel's row of B.
template <int kR, int kVectors>
HWY_INLINE void step(const float* HWY_RESTRICT a, int64_t row_stride, const float* HWY_RESTRICT b,
                     V (&acc)[kR][kVectors]) {
  V columns[kVectors];
#pragma GCC unroll 16
  for (int v = 0; v < kVectors; v++) columns[v] = hn::LoadU(d, b + v * kLanes);
#pragma GCC unroll 12
  for (int r = 0; r < kR; r++) {
    const V row = hn::Set(d, a[r * row_stride]);
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; v++) accumulate(acc[r][v], row, columns[v]);
  }
}

template <int kR, int kBlocks, Layout kLayout>
HWY_NOINLINE void tile(const Product& p) {
  constexpr int kVectors = kBlocks * kParts;
  const int64_t stride = row_stride_of<kLayout>(p);
  constexpr int64_t kStep = kLayout == Layout::kColumnsOf16 ? kBlock : 1;
  const int64_t chunk = kLayout == Layout::kRowsOf16    ? p.chunk_stride
                        : kLayout == Layout::kTilesOf16 ? kR * kBlock
                                                        : kBlock * kStep;
  V acc[kR][kVectors];
#pragma GCC unroll 12
  for (int r = 0; r < kR; r++) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; v++) {
      acc[r][v] = p.accumulate ? hn::LoadU(d, p.c + r * p.c_stride + v / kParts * p.c_block_stride +
                                                  v % kParts * kLanes)
                               : hn::Zero(d);
    }
  }
  const float* HWY_RESTRICT b = p.b;
  const float* HWY_RESTRICT next_b = p.next_b.from;
  const float* HWY_RESTRICT next_a = p.next_a.from;
  const int64_t pieces = kLayout == Layout::kStrided ? p.pieces : 1;
  for (int64_t piece = 0; piece < pieces; piece++) {
    const float* HWY_RESTRICT a = p.a + piece * p.piece_stride;
    int64_t k = p.k;
    for (; k >= kBlock; k -= kBlock) {
      fetch(next_b, p.next_b.lines);
      fetch(next_a, p.next_a.lines);
#pragma GCC unroll 16
      for (int64_t kk = 0; kk < kBlock; kk++) {
        step<kR, kVectors>(a + kk * kStep, stride, b + kk * kBlocks * kBlock, acc);
      }
      a += chunk;
      b += kBlock * kBlocks * kBlock;
    }
    for (; k > 0; k--, a += kStep, b += kBlocks * kBlock) step<kR, kVectors>(a, stride, b, acc);
  }
#pragma GCC unroll 12
  for (int r = 0; r < kR; r++) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; v++) {
      hn::StoreU(acc[r][v], d,
                 p.c + r * p.c_stride + v / kParts * p.c_block_stride + v % kParts * kLanes);
    }
  }
}

using TileFunction = void (*)(const Product&);

template <int kBlocks, Layout kLayout>
TileFunction tile_of(int rows) {
  switch (rows) {
    case 1:
      return tile<1, kBlocks, kLayout>;
    case 2:
      return tile<2, kBlocks, kLayout>;
#if !CALOTYPE_FEW_REGISTERS
    case 3:
      return tile<3, kBlocks, kLayout>;
    case 4:
      return tile<4, kBlocks, kLayout>;
    case 5:
      return tile<5, kBlocks, kLayout>;
    case 6:
      return tile<6, kBlocks, kLayout>;
#endif
#if HWY_TARGET == HWY_AVX3
    case 7:
      return tile<7, kBlocks, kLayout>;
    case 8:
      return tile<8, kBlocks, kLayout>;
    case 9:
      return tile<9, kBlocks, kLayout>;
    case 10:
      return tile<10, kBlocks, kLayout>;
    case 11:
      return tile<11, kBlocks, kLayout>;
    case 12:
      return tile<12, kBlocks, kLayout>;
#endif
    default:
      return nullptr;
  }
}

// `rows` rows, register tile by register tile.
template <int kBlocks, Layout kLayout>
HWY_INLINE void product(Product p, int64_t rows) {
  const RowTiles tiles(rows);
  const float* const whole = p.a;
  int64_t first = 0;
  for (int64_t t = 0; t < tiles.count; t++) {
    const int64_t here = tiles.rows(t);
    p.a = whole + (kLayout == Layout::kTilesOf16 ? first * p.depth + p.skip * here
                                                 : first * row_stride_of<kLayout>(p));
    tile_of<kBlocks, kLayout>(static_cast<int>(here))(p);
    first += here;
    p.c += here * p.c_stride;
    p.next_b.from += p.k * p.next_b.lines;
    p.next_a.from += p.k * p.next_a.lines;
  }
}

}  // namespace
// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace calotype::cpu
HWY_AFTER_NAMESPACE();

#endif  // CALOTYPE_CPU_GEMM_INL_H_
