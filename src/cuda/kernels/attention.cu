// What attention by 2^(score - bound) needs beside its two products, on any GPU: the bounds before,
// the scales between. See BoundedAttention.
#include "cuda/kernels/element.cuh"
#include "cuda/kernels/launch.cuh"

namespace calotype::cuda {
namespace {

using T = bf16;

constexpr float kHeadroom = 90;  // 2^90 times 2^20 tokens times values of 2^10 is below 2^127

// The pixel, in the batch, of row `row` of a call.
__device__ __forceinline__ int64_t pixel_of(const BoundedAttention& call, int64_t row) {
  return (call.first_picture + row / call.rows) * call.q.pixels() + call.first_row +
         row % call.rows;
}

// A warp: the bound of one row of q.
__global__ void __launch_bounds__(256) bounds_kernel(BoundedAttention call) {
  begin_grid();
  const int64_t row = int64_t{blockIdx.x} * 8 + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (row >= int64_t{call.pictures} * call.rows) return;
  const int64_t pixel = pixel_of(call, row);
  float squares = 0;
  for (int c = 8 * lane; c < call.q.c; c += 8 * 32) {
    const uint4 packed = *reinterpret_cast<const uint4*>(static_cast<const T*>(call.q.data) +
                                                         call.q.offset(pixel, c));
    const uint32_t pairs[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float2 v = unpack<T>(pairs[i]);
      if (c + 2 * i < call.q.c) squares = fmaf(v.x, v.x, squares);
      if (c + 2 * i + 1 < call.q.c) squares = fmaf(v.y, v.y, squares);
    }
  }
  for (int mask = 16; mask > 0; mask /= 2) squares += __shfl_xor_sync(~0u, squares, mask);
  // The products are summed in float32: 1.01 is above their rounding.
  const float largest = __uint_as_float(call.largest[call.first_picture + row / call.rows]);
  if (lane == 0) call.bounds[row] = 1.01f * sqrtf(squares) * largest - kHeadroom;
}

constexpr int kFinishRows = 32, kFinishThreads = 256, kParts = kFinishThreads / kFinishRows;

// Scores of one row, made anew: P's row in full, and its scale. The scores are computed twice, for
// their maximum and sum and for the weights. A warp has every eighth token.
__device__ void rescue_row(const BoundedAttention& call, int64_t row, float* query) {
  __shared__ float maxima[kParts], totals[kParts];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const T* q = static_cast<const T*>(call.q.data);
  const T* x = static_cast<const T*>(call.x.data);
  T* p = static_cast<T*>(call.p) + row * call.pitch;
  const int channels = call.x.c, tokens = static_cast<int>(call.x.pixels());
  const int64_t pixel = pixel_of(call, row);
  const int64_t first_token = (call.first_picture + row / call.rows) * int64_t{tokens};
  __syncthreads();
  for (int c = threadIdx.x; c < channels; c += kFinishThreads) {
    query[c] = widen_one(q[call.q.offset(pixel, c)]);
  }
  __syncthreads();
  const auto score = [&](int token) {
    float sum = 0;
    for (int c = lane; c < channels; c += 32) {
      sum = fmaf(query[c], widen_one(x[call.x.offset(first_token + token, c)]), sum);
    }
    for (int mask = 16; mask > 0; mask /= 2) sum += __shfl_xor_sync(~0u, sum, mask);
    return sum;
  };
  float largest = -INFINITY, total = 0;
  for (int token = warp; token < tokens; token += kParts) {
    const float s = score(token), higher = fmaxf(largest, s);
    total = total * exp2f(largest - higher) + exp2f(s - higher);
    largest = higher;
  }
  if (lane == 0) {
    maxima[warp] = largest;
    totals[warp] = total;
  }
  __syncthreads();
  float top = maxima[0];
  for (int w = 1; w < kParts; w++) top = fmaxf(top, maxima[w]);
  total = 0;
  for (int w = 0; w < kParts; w++) {
    if (totals[w] > 0) total += totals[w] * exp2f(maxima[w] - top);
  }
  for (int token = warp; token < tokens; token += kParts) {
    const float s = score(token);
    if (lane == 0) p[token] = narrow<T>(exp2f(s - top));
  }
  if (threadIdx.x == 0) call.scales[row] = 1 / total;
}

// Block: the scales of 32 rows, from their sums over the tiles; eight threads a row.
__global__ void __launch_bounds__(kFinishThreads)
    finish_weights_kernel(BoundedAttention call, int tiles) {
  begin_grid();
  extern __shared__ float query[];
  __shared__ float parts[kParts][kFinishRows];
  const int lane = threadIdx.x % kFinishRows, part = threadIdx.x / kFinishRows;
  const int64_t rows = int64_t{call.pictures} * call.rows;
  const int64_t first = int64_t{blockIdx.x} * kFinishRows, row = first + lane;
  float sum = 0;
#pragma unroll 4
  for (int t = part; t < tiles; t += kParts) sum += row < rows ? call.sums[t * rows + row] : 0;
  parts[part][lane] = sum;
  __syncthreads();
  sum = 0;
  for (int i = 0; i < kParts; i++) sum += parts[i][lane];
  // Above 2^-100 the largest weight is far enough from 2^-126 for the others to count.
  const bool works = sum > 0x1p-100f && sum < 0x1p126f;
  if (part == 0 && row < rows && works) call.scales[row] = 1 / sum;
  unsigned failed = __ballot_sync(~0u, row < rows && !works);  // the same in every warp
  for (; failed != 0; failed &= failed - 1) rescue_row(call, first + __ffs(failed) - 1, query);
}

}  // namespace

void attention_bounds(const BoundedAttention& call, const Machine& machine) {
  const int64_t rows = int64_t{call.pictures} * call.rows;
  launch("attention_bounds", bounds_kernel, {dim3(blocks_for(rows, 8)), dim3(256)}, machine, call);
}

void attention_scales(const BoundedAttention& call, int parts, const Machine& machine) {
  const int64_t rows = int64_t{call.pictures} * call.rows;
  launch("attention_scales", finish_weights_kernel,
         {dim3(blocks_for(rows, kFinishRows)), dim3(kFinishThreads),
          sizeof(float) * static_cast<size_t>(call.x.c)},
         machine, call, parts);
}

}  // namespace calotype::cuda
