// Means and squared deviations, merged pairwise (Chan et al. 1979): exact also where a group's mean
// is large beside its spread, which sums of squares are not.
#pragma once

#include "cuda/kernels/kernels.h"

namespace calotype::cuda {

__device__ __forceinline__ Moments merge(const Moments& a, const Moments& b) {
  const float count = a.count + b.count;
  if (count == 0) return {0, 0, 0};
  const float weight = b.count / count, d = b.mean - a.mean;
  return {count, fmaf(d, weight, a.mean), a.m2 + b.m2 + d * d * a.count * weight};
}

// The accumulators of one warp, as mma and wgmma leave them: column block j of eight channels has
// channels 8 j + 2 (lane % 4) and the next one in this lane, of the rows lane / 4 + 8 k. A unit is
// such a pair; on entry mean and m2 are this lane's own of unit (j, lane % 4), over `count` values.
// On return mean and m2 [0 .. kBlocks / 8) are the whole warp's of the blocks from
// first_block(lane) on, over the returned count. Each step exchanges one half of the list for the
// other half of the partner's.
template <int kBlocks>
__device__ __forceinline__ int first_block(int lane) {
  return (lane >> 2) * (kBlocks / 8);
}

template <int kHalf, int kMask, int kBlocks>
__device__ __forceinline__ float merge_halves(float (&mean)[kBlocks], float (&m2)[kBlocks],
                                              float count, int lane) {
  const bool upper = (lane & kMask) != 0;
  const float others = __shfl_xor_sync(~0u, count, kMask), total = count + others;
  const float weight = total > 0 ? others / total : 0, cross = count * weight;
#pragma unroll
  for (int i = 0; i < kHalf; i++) {
    const float own_mean = upper ? mean[i + kHalf] : mean[i];
    const float own_m2 = upper ? m2[i + kHalf] : m2[i];
    const float other_mean = __shfl_xor_sync(~0u, upper ? mean[i] : mean[i + kHalf], kMask);
    const float other_m2 = __shfl_xor_sync(~0u, upper ? m2[i] : m2[i + kHalf], kMask);
    const float d = other_mean - own_mean;
    mean[i] = fmaf(d, weight, own_mean);
    m2[i] = fmaf(d * d, cross, own_m2 + other_m2);
  }
  return total;
}

template <int kBlocks>
__device__ __forceinline__ float merge_warp(float (&mean)[kBlocks], float (&m2)[kBlocks],
                                            float count, int lane) {
  count = merge_halves<kBlocks / 2, 16>(mean, m2, count, lane);
  count = merge_halves<kBlocks / 4, 8>(mean, m2, count, lane);
  return merge_halves<kBlocks / 8, 4>(mean, m2, count, lane);
}

}  // namespace calotype::cuda
