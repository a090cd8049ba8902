// Convolutions with bf16 products and float32 sums, on processors with AMX.
//
// AMX makes so many products a cycle that Winograd's transforms would take longer than the
// multiplies they save. Convolutions are direct (the taps of a row of pixels lie side by side in
// memory, as one product), but for upsampling, where each of the four phases of y's pixels is a 2x2
// convolution.
//
// AVX512-BF16 alone is not used: at twice the float32 rate a direct convolution is slower than
// Winograd in float32.
#pragma once

#include <cstdint>

#include "cpu/amx.h"
#include "cpu/problem.h"

namespace calotype::cpu {

bool bf16_takes(const ConvNode& node);
int64_t bf16_band_rows(const ConvNode& node);
int64_t bf16_weight_floats(const ConvNode& node);  // in floats, though they are bf16
void bf16_prepare(const ConvNode& node, Workspace& work, float* weights,
                  const ThreadPool::Tick& tick);
double bf16_flop(const ConvNode& node, Extent y);
WorkspaceBytes bf16_workspace(const ConvNode& node, Extent y, int64_t batch, int threads);
void bf16_conv(const Simd& simd, AmxUnit unit, const ConvProblem& problem, Workspace& work,
               Stages& stages);

}  // namespace calotype::cpu
