// AMX by its intrinsics: Debian's Highway has none for it.
#include "cpu/amx.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "core/cat.h"

#if defined(__x86_64__) && defined(__linux__)
#define CALOTYPE_AMX 1
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#define CALOTYPE_AMX 0
#endif

namespace calotype::cpu {
namespace {

// Parts in the order in which A has them; B has them from low to high, as of_b says.
enum : int64_t { kHigh = 0, kMiddle = 1, kLow = 2 };
constexpr int64_t of_b(int64_t part, int64_t parts) { return parts - 1 - part; }

float from_bf16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

// B is [k / 32][half of 16 columns][k % 32 / 2][column][k % 2].
void emulate(const Bf16Product& p) {
  for (int64_t r = 0; r < p.rows; r++) {
    for (int64_t j = 0; j < 32; j++) {
      float sum = p.c[r * 32 + j];
      for (int64_t k = 0; k < p.depth; k++) {
        const uint16_t* tile = p.b + (k / 32 * 2 + j / 16) * 512;
        sum += from_bf16(p.a[r * p.row_stride + k]) *
               from_bf16(tile[(k % 32 / 2 * 16 + j % 16) * 2 + k % 2]);
      }
      p.c[r * 32 + j] = sum;
    }
  }
}

void emulate(const SplitProduct& p) {
  constexpr int64_t kOrder[6][2] = {{kLow, kHigh},    {kMiddle, kHigh}, {kMiddle, kMiddle},
                                    {kHigh, kMiddle}, {kHigh, kLow},    {kHigh, kHigh}};
  for (int64_t r = 0; r < p.rows; r++) {
    for (int64_t j = 0; j < 32; j++) {
      float& c = p.c[r * p.c_stride + j / 16 * p.c_block_stride + j % 16];
      float sum = p.accumulate ? c : 0;
      for (int64_t step = 0; step < p.depth / 32; step++) {
        for (const auto& [part, other] : kOrder) {
          if (p.parts == 2 && part + other >= kLow) continue;
          if (p.beside != nullptr && r % 32 == 0 && j == 0) p.beside(p.work);
          const uint16_t* a = p.a + part * p.a_part + step * p.a_step + r * 32;
          const uint16_t* b = p.b + step * split_panel(p.parts) +
                              (of_b(other, p.parts) * 2 + j / 16) * 512 + j % 16 * 2;
          for (int64_t k = 0; k < 32; k++)
            sum += from_bf16(a[k]) * from_bf16(b[k / 2 * 32 + k % 2]);
        }
      }
      c = sum;
    }
  }
}

}  // namespace

#if CALOTYPE_AMX

namespace {

bool processor_has_amx_bf16() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24;
  return (d & kBf16) != 0 && (d & kTile) != 0;
}

// Linux hands out the 8 KiB of tile registers on request.
bool request_tiles() {
  constexpr int kArchReqXcompPerm = 0x1023, kXfeatureXtileData = 18;
  return syscall(SYS_arch_prctl, kArchReqXcompPerm, kXfeatureXtileData) == 0;
}

// All eight tiles are 16 rows of 64 bytes.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};  // of a row
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Tiles 0 to 3: sums of 16 x 16; 4 and 5: rows of A, 6 and 7: columns of B. 32 x 32 results need
// four loads for four multiplications.
__attribute__((target("amx-tile,amx-bf16"))) void multiply_32(const Bf16Product& p, int64_t row) {
  const uint16_t* a = p.a + row * p.row_stride;
  float* c = p.c + row * 32;
  const auto a_bytes = static_cast<size_t>(p.row_stride) * 2;
  constexpr size_t kCBytes = 32 * sizeof(float);
  constexpr std::ptrdiff_t kLower = std::ptrdiff_t{16} * 32;
  _tile_loadd(0, c, kCBytes);
  _tile_loadd(1, c + 16, kCBytes);
  _tile_loadd(2, c + kLower, kCBytes);
  _tile_loadd(3, c + kLower + 16, kCBytes);
  for (int64_t k = 0; k < p.depth; k += 32) {
    const uint16_t* b = p.b + k * 32;
    _tile_loadd(4, a + k, a_bytes);
    _tile_loadd(6, b, 64);
    _tile_loadd(7, b + 512, 64);
    _tile_loadd(5, a + 16 * p.row_stride + k, a_bytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, kCBytes);
  _tile_stored(1, c + 16, kCBytes);
  _tile_stored(2, c + kLower, kCBytes);
  _tile_stored(3, c + kLower + 16, kCBytes);
}

// A part of the depth of a SplitProduct.
struct SplitSlice {
  const uint16_t *a, *b;
  int64_t depth;
  bool accumulate;
};

// Tiles 0 to 3: sums of 16 x 16, of which kRows / 16 * 2 are used; 4 and 5: rows of A, 6 and 7:
// columns of B. A part that the next products need as well stays.
template <int kRows, int kParts>
__attribute__((target("amx-tile,amx-bf16"))) void multiply_split(const SplitProduct& p,
                                                                 const SplitSlice& slice,
                                                                 int64_t row) {
  constexpr bool kBoth = kRows == 32;
  const auto c_bytes = static_cast<size_t>(p.c_stride) * sizeof(float);
  float* c = p.c + row * p.c_stride;
  float* lower = c + 16 * p.c_stride;
  if (slice.accumulate) {
    _tile_loadd(0, c, c_bytes);
    _tile_loadd(1, c + p.c_block_stride, c_bytes);
    if (kBoth) {
      _tile_loadd(2, lower, c_bytes);
      _tile_loadd(3, lower + p.c_block_stride, c_bytes);
    }
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  const uint16_t* a = slice.a + row * 32;
  const uint16_t* b = slice.b;
  const auto load_a = [&](int64_t part) __attribute__((always_inline, target("amx-tile"))) {
    _tile_loadd(4, a + part * p.a_part, 64);
    if (kBoth) _tile_loadd(5, a + part * p.a_part + 512, 64);
  };
  const auto load_b = [&](int64_t part) __attribute__((always_inline, target("amx-tile"))) {
    const uint16_t* from = b + of_b(part, kParts) * 1024;
    _tile_loadd(6, from, 64);
    _tile_loadd(7, from + 512, 64);
  };
  const auto multiply = [&]() __attribute__((always_inline, target("amx-tile,amx-bf16"))) {
    if (p.beside != nullptr) p.beside(p.work);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if (kBoth) {
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  };
  for (int64_t k = 0; k < slice.depth; k += 32, a += p.a_step, b += split_panel(kParts)) {
    if (kParts == 3) {
      load_a(kLow);
      load_b(kHigh);
      multiply();
      load_a(kMiddle);
      multiply();
      load_b(kMiddle);
      multiply();
      load_a(kHigh);
      multiply();
      load_b(kLow);
      multiply();
      load_b(kHigh);
      multiply();
    } else {
      load_a(kMiddle);
      load_b(kHigh);
      multiply();
      load_a(kHigh);
      multiply();
      load_b(kMiddle);
      multiply();
    }
  }
  _tile_stored(0, c, c_bytes);
  _tile_stored(1, c + p.c_block_stride, c_bytes);
  if (!kBoth) return;
  _tile_stored(2, lower, c_bytes);
  _tile_stored(3, lower + p.c_block_stride, c_bytes);
}

}  // namespace

bool amx_usable() {
  static const bool usable = processor_has_amx_bf16() && request_tiles();
  return usable;
}

namespace {

__attribute__((target("amx-tile"))) void configure_tiles() {
  // Static: GCC 12's intrinsic tells the compiler of the first eight bytes only, and stores to the
  // rest of a local one are dropped as dead.
  static const TileConfig config;
  _tile_loadconfig(&config);
}

__attribute__((target("amx-tile"))) void release_tiles() { _tile_release(); }

}  // namespace

AmxJob::AmxJob(AmxUnit unit) : unit_(unit) {
  if (unit_ == AmxUnit::kReal) configure_tiles();
}

AmxJob::~AmxJob() {
  if (unit_ == AmxUnit::kReal) release_tiles();
}

void multiply(AmxUnit unit, const Bf16Product& p) {
  if (unit == AmxUnit::kEmulated) return emulate(p);
  for (int64_t row = 0; row < p.rows; row += 32) multiply_32(p, row);
}

namespace {

template <int kParts>
void multiply_rows(const SplitProduct& p) {
  constexpr int64_t kDepth = 128;  // 24 kB of B stay in L1 while all rows of A pass
  SplitSlice slice = {p.a, p.b, 0, p.accumulate};
  for (int64_t k = 0; k < p.depth; k += kDepth) {
    slice.depth = std::min(kDepth, p.depth - k);
    int64_t row = 0;
    for (; row + 32 <= p.rows; row += 32) multiply_split<32, kParts>(p, slice, row);
    if (row < p.rows) multiply_split<16, kParts>(p, slice, row);
    slice.accumulate = true;
    slice.a += kDepth / 32 * p.a_step;
    slice.b += kDepth / 32 * split_panel(kParts);
  }
}

}  // namespace

void multiply(AmxUnit unit, const SplitProduct& p) {
  if (unit == AmxUnit::kEmulated) return emulate(p);
  return p.parts == 3 ? multiply_rows<3>(p) : multiply_rows<2>(p);
}

#else

bool amx_usable() { return false; }
AmxJob::AmxJob(AmxUnit unit) : unit_(unit) {}
AmxJob::~AmxJob() = default;

namespace {

template <class Product>
void multiply_emulated(AmxUnit unit, const Product& p) {
  if (unit == AmxUnit::kReal) fail(ErrorCode::kInternal, "there is no AMX here");
  emulate(p);
}

}  // namespace

void multiply(AmxUnit unit, const Bf16Product& p) { multiply_emulated(unit, p); }
void multiply(AmxUnit unit, const SplitProduct& p) { multiply_emulated(unit, p); }

#endif

}  // namespace calotype::cpu
