// Convolution as it is written: any kernel, sampling, size and number of channels. What the faster
// algorithms do not take.
#pragma once

#include "cpu/problem.h"

namespace calotype::cpu {

constexpr int64_t kDirectBandRows = 4;

// True where pixels and filters are multiplied by tiles of AMX.
bool direct_takes_amx(const Simd& simd, const ConvNode& node);
int64_t direct_weight_floats(const Simd& simd, const ConvNode& node, Extent y);
void direct_prepare(const Simd& simd, const ConvNode& node, Extent y, Workspace& work,
                    float* weights, const ThreadPool::Tick& tick);
WorkspaceBytes direct_workspace(const Simd& simd, const ConvNode& node, Extent y, int64_t batch,
                                int threads);
void direct_conv(const Simd& simd, const ConvProblem& problem, Workspace& work, Stages& stages);

}  // namespace calotype::cpu
