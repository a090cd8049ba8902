// AMX by its intrinsics: Debian's Highway has none for it.
#include <cstddef>
#include <cstring>

#include "core/cat.h"
#include "cpu/bf16.h"

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

float from_bf16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

}  // namespace

// B is [k / 32][half of 16 columns][k % 32 / 2][column][k % 2].
void emulated_multiply(const Bf16Product& p) {
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

}  // namespace

bool amx_usable() {
  static const bool usable = processor_has_amx_bf16() && request_tiles();
  return usable;
}

__attribute__((target("amx-tile"))) void amx_begin() {
  // Static: GCC 12's intrinsic tells the compiler of the first eight bytes only, and stores to the
  // rest of a local one are dropped as dead.
  static const TileConfig config;
  _tile_loadconfig(&config);
}

__attribute__((target("amx-tile"))) void amx_end() { _tile_release(); }

// `rows` is a multiple of 32.
void amx_multiply(const Bf16Product& p) {
  for (int64_t row = 0; row < p.rows; row += 32) multiply_32(p, row);
}

#else

bool amx_usable() { return false; }
void amx_begin() {}
void amx_end() {}
void amx_multiply(const Bf16Product&) { fail(ErrorCode::kInternal, "there is no AMX here"); }

#endif

}  // namespace calotype::cpu
