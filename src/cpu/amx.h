// Tiles of AMX: 16 x 32 bf16 by 32 x 16 in 16 cycles, with float32 sums, sixteen times what the
// float32 units of the same core do.
#pragma once

#include <cstdint>

namespace calotype::cpu {

enum class AmxUnit {
  kReal,
  kEmulated,  // the same tiles in plain loops, for tests
};

// True where the processor has AMX-BF16 and the system lets this process use it.
bool amx_usable();

// Around the products of a job on its thread: configures the tiles, and leaves them.
class AmxJob {
 public:
  explicit AmxJob(AmxUnit unit);
  ~AmxJob();
  AmxJob(const AmxJob&) = delete;
  AmxJob& operator=(const AmxJob&) = delete;

 private:
  AmxUnit unit_;
};

// rows (a multiple of 32) x 32 results of `depth` (a multiple of 32) products each. Row r of A
// begins at a + r * row_stride; B is packed by bf16_prepare. Both in bf16 bits. Adds to `c`,
// [rows][32].
struct Bf16Product {
  const uint16_t* a;
  int64_t row_stride;
  const uint16_t* b;
  int64_t depth, rows;
  float* c;
};
void multiply(AmxUnit unit, const Bf16Product& product);

// Products of float32: each is the sum of three bf16, exactly, high + middle + low, and of their
// nine products the six are taken that reach 2^-22 of the whole. What is left out is 2^-24 of it,
// half a unit in the last place of a float32.
//
// Where 2^-17 of each value may be left out, two bf16 each do, high + middle, with half as many
// products.
//
// Sixteen by sixteen, values of k and k + 16 are neighbours (see split-inl.h), in A and in B.
constexpr int64_t split_panel(int64_t parts) { return parts * 32 * 32; }
constexpr int64_t kSplitPanel = split_panel(3);  // bf16 of B for 32 k and 32 columns

struct SplitProduct {
  int64_t parts = 3;            // of a value; of two, the low one is not there
  const uint16_t* a = nullptr;  // [high, middle, low][k / 32][row][32]
  int64_t a_part = 0;           // bf16 between high, middle and low
  int64_t a_step = 0;           // and between one 32 k and the next
  const uint16_t* b = nullptr;  // [k / 32][low, middle, high][column / 16][k % 16][column % 16][2]
  int64_t depth = 0, rows = 0;  // multiples of 32 and 16
  float* c = nullptr;           // (r, j) at c[r * c_stride + j / 16 * c_block_stride + j % 16]
  int64_t c_stride = 0, c_block_stride = 0;
  bool accumulate = false;  // add to what C holds
  // For the vector unit that is free meanwhile (of two: tiles take the other's port): called with
  // every four multiplications of tiles, that is every 64 cycles, or never.
  void (*beside)(void* work) = nullptr;
  void* work = nullptr;
};
void multiply(AmxUnit unit, const SplitProduct& product);

}  // namespace calotype::cpu
