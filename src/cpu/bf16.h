// Convolutions with bf16 products and float32 sums, on processors with AMX.
//
// A tile of AMX multiplies 16 x 32 by 32 x 16 in 16 cycles, sixteen times what the float32 units of
// the same core do: so much that Winograd's transforms would take longer than the multiplies they
// save. Convolutions are direct (the taps of a row of pixels lie side by side in memory, as one
// product), but for upsampling, where each of the four phases of y's pixels is a 2x2 convolution.
//
// AVX512-BF16 alone is not used: at twice the float32 rate a direct convolution is slower than
// Winograd in float32.
#pragma once

#include <cstdint>
#include <memory>

#include "cpu/problem.h"

namespace calotype::cpu {

enum class Bf16Unit {
  kAmx,
  kEmulated,  // the same tiles in plain loops, for tests
};

// True where the processor has AMX-BF16 and the system lets this process use it.
bool amx_usable();

bool bf16_takes(const ConvNode& node);
int64_t bf16_band_rows(const ConvNode& node);
int64_t bf16_weight_floats(const ConvNode& node);  // in floats, though they are bf16
void bf16_prepare(const ConvNode& node, Workspace& work, float* weights,
                  const ThreadPool::Tick& tick);
double bf16_flop(const ConvNode& node, Extent y);
WorkspaceBytes bf16_workspace(const ConvNode& node, Extent y, int64_t batch, int threads);
void bf16_conv(const Simd& simd, Bf16Unit unit, const ConvProblem& problem, Workspace& work,
               Stages& stages);

// rows x 32 results of `depth` (a multiple of 32) products each. Row r of A begins at a + r *
// row_stride; B is packed by bf16_prepare. Both in bf16 bits. Adds to `c`, [rows][32].
struct Bf16Product {
  const uint16_t* a;
  int64_t row_stride;
  const uint16_t* b;
  int64_t depth, rows;
  float* c;
};
void amx_begin();  // of a job on this thread: configures its tiles
void amx_end();
void amx_multiply(const Bf16Product& product);
void emulated_multiply(const Bf16Product& product);

// The whole backend with emulated tiles, for tests.
std::unique_ptr<Ops> make_emulated_bf16_ops(int threads);

}  // namespace calotype::cpu
