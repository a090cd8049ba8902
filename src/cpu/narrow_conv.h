// 3x3 convolution to few channels: the decoder's last, to pixels.
//
// Vectors of output channels would be mostly padding. Instead all nine taps of all output channels
// are the columns of one product with each pixel of x, and y gathers nine of its pixels' results:
//   t[p][tap, o] = x[p] . w[o, tap],   y[p][o] = bias[o] + sum over taps of t[p + tap][tap, o].
// To 3 channels this needs 32 columns instead of the 9 * 16 of a direct convolution.
#pragma once

#include "cpu/problem.h"

namespace calotype::cpu {

constexpr int64_t kNarrowBandRows = 32;

bool narrow_takes(const ConvNode& node);
double narrow_flop(const ConvNode& node, Extent y);
int64_t narrow_weight_floats(const ConvNode& node);
void narrow_prepare(const Simd& simd, const ConvNode& node, float* weights);
WorkspaceBytes narrow_workspace(const ConvNode& node, Extent y, int64_t batch, int threads);
void narrow_conv(const Simd& simd, const ConvProblem& problem, Workspace& work, Stages& stages);

}  // namespace calotype::cpu
