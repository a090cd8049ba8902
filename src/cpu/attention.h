// One head over all channels, exact, in memory linear in the number of tokens.
#pragma once

#include "cpu/problem.h"

namespace calotype::cpu {

constexpr int64_t kAttentionBandRows = 4;

// True where both products are by tiles of AMX.
bool attention_takes_amx(const Simd& simd, Extent x);
WorkspaceBytes attention_workspace(const Simd& simd, Extent x, int64_t batch, int threads);
double attention_flop(Extent x);
void attention(const Simd& simd, const AttentionCall& call, const FoldedNorm& norm, Workspace& work,
               Stages& stages);

}  // namespace calotype::cpu
