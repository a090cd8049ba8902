// GroupNorm around the convolutions: statistics, their merging, and the norm on its own.
#include "core/cat.h"
#include "cuda/kernels/element.cuh"
#include "cuda/kernels/launch.cuh"
#include "cuda/kernels/moments.cuh"

namespace calotype::cuda {
namespace {

constexpr int kThreads = 256;

// Block (slot, picture): every channel of the pixels [slot * share, (slot + 1) * share). Sums are
// of deviations from each thread's first value.
template <class T>
__global__ void __launch_bounds__(kThreads)
    channel_moments_kernel(Pictures x, Partials stats, int64_t share) {
  begin_grid();
  __shared__ Moments lanes[kThreads];
  const int width = min(x.c, kThreads), lane_count = kThreads / width;
  const int column = threadIdx.x % width, lane = threadIdx.x / width;
  const int64_t first = blockIdx.x * share, last = min(first + share, x.pixels());
  const T* data = static_cast<const T*>(x.data);
  const int64_t before = blockIdx.y * x.pixels();
  for (int c0 = 0; c0 < x.c; c0 += width) {
    const int c = c0 + column;
    Moments m = {0, 0, 0};
    if (lane < lane_count && c < x.c && first + lane < last) {
      const float shift = widen_one(data[x.offset(before + first + lane, c)]);
      float sum = 0, squares = 0;
      for (int64_t p = first + lane; p < last; p += lane_count) {
        const float d = widen_one(data[x.offset(before + p, c)]) - shift;
        sum += d;
        squares = fmaf(d, d, squares);
        m.count += 1;
      }
      m.mean = shift + sum / m.count;
      m.m2 = squares - sum * (sum / m.count);
    }
    lanes[threadIdx.x] = m;
    __syncthreads();
    if (lane == 0 && c < x.c) {
      for (int l = 1; l < lane_count; l++) m = merge(m, lanes[l * width + column]);
      stats.at(blockIdx.y, c, blockIdx.x) = m;
    }
    __syncthreads();
  }
}

// Sums over the block, in every thread.
template <int kBlock, int kCount>
__device__ void block_sums(double (&v)[kCount]) {
  __shared__ double warps[kCount][kBlock / 32];
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) {
#pragma unroll
    for (int i = 0; i < kCount; i++) v[i] += __shfl_xor_sync(~0u, v[i], mask);
  }
  if (threadIdx.x % 32 == 0) {
#pragma unroll
    for (int i = 0; i < kCount; i++) warps[i][threadIdx.x / 32] = v[i];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kCount; i++) {
    v[i] = 0;
#pragma unroll
    for (int w = 0; w < kBlock / 32; w++) v[i] += warps[i][w];
  }
}

// Block (group, picture). It is latency that takes time here, thirty times a picture: many threads,
// one pass. In float64 the sum of squares loses nothing that float32 values have.
constexpr int kFinishThreads = 512;

__global__ void __launch_bounds__(kFinishThreads)
    finish_norm_kernel(Partials stats, int c, NormWeights norm, float2* affine, int affine_stride) {
  begin_grid();
  const int group = blockIdx.x, picture = blockIdx.y;
  const int width = c / norm.groups, units = width / stats.width;
  const Moments* from = &stats.at(picture, group * units, 0);
  double sums[3] = {0, 0, 0};  // count, sum, sum of squares
#pragma unroll 4
  for (int i = threadIdx.x; i < stats.slots * units; i += kFinishThreads) {
    const Moments m = from[i];
    const double n = m.count, mean = m.count > 0 ? m.mean : 0;
    sums[0] += n;
    sums[1] += n * mean;
    sums[2] += n > 0 ? m.m2 + n * mean * mean : 0;
  }
  block_sums<kFinishThreads>(sums);
  const double mean = sums[1] / sums[0];
  const double variance = fmax(sums[2] / sums[0] - mean * mean, 0.0);
  const double scale = 1 / sqrt(variance + static_cast<double>(norm.eps));
  float2* to = affine + int64_t{picture} * affine_stride;
  for (int i = threadIdx.x; i < width; i += kFinishThreads) {
    const int k = group * width + i;
    const double factor = scale * norm.weight[k];
    to[k] =
        make_float2(static_cast<float>(factor), static_cast<float>(norm.bias[k] - mean * factor));
  }
  if (group == 0) {
    for (int k = c + threadIdx.x; k < affine_stride; k += kFinishThreads) to[k] = make_float2(0, 0);
  }
}

constexpr int kApplyPixels = 32, kApplyChannels = 64;

// Eight values, channels `c` and on; zero beyond the last.
template <class T>
__device__ __forceinline__ void load8(const T* from, int c, int channels, float (&v)[8]) {
  if constexpr (sizeof(T) == 2) {
    const uint4 packed = *reinterpret_cast<const uint4*>(from);
    const uint32_t pairs[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float2 pair = unpack<T>(pairs[i]);
      v[2 * i] = c + 2 * i < channels ? pair.x : 0;
      v[2 * i + 1] = c + 2 * i + 1 < channels ? pair.y : 0;
    }
  } else {
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = c + i < channels ? from[i] : 0;
  }
}

// Block (32 pixels, picture), slabs of 64 channels one after the other; each thread has eight
// channels of one pixel. Values of 2 bytes are written to whole chunks of eight, zeros beyond c.
template <class T>
__global__ void __launch_bounds__(kThreads) apply_norm_kernel(ApplyNorm call) {
  begin_grid();
  __shared__ T turned[kApplyChannels][kApplyPixels + 8];  // + 8 keeps rows 16-byte aligned
  const Pictures& x = call.x;
  const int picture = blockIdx.y, pixel = threadIdx.x / 8, chunk = threadIdx.x % 8;
  const int64_t first = int64_t{blockIdx.x} * kApplyPixels, at = first + pixel;
  const bool inside = at < x.pixels();
  const int64_t in_batch = picture * x.pixels() + at;
  const float2* affine = call.affine.data + int64_t{picture} * call.affine.stride;
  float squares = 0;
  for (int c0 = 0; c0 < x.c; c0 += kApplyChannels) {
    const int c = c0 + chunk * 8;
    float v[8] = {};
    if (inside && c < call.y.padded()) {
      T* to = static_cast<T*>(call.y.data) + call.y.offset(in_batch, c);
      if (c < x.c) load8(static_cast<const T*>(x.data) + x.offset(in_batch, c), c, x.c, v);
#pragma unroll
      for (int i = 0; i < 8; i++) {
        if (c + i >= x.c) continue;
        const float2 f = affine[c + i];
        const T rounded = narrow<T>(fmaf(v[i], f.x, f.y));
        v[i] = widen_one(rounded);
        squares = fmaf(v[i], v[i], squares);
        if constexpr (sizeof(T) == 4) to[i] = rounded;
      }
      if constexpr (sizeof(T) == 2) {
        *reinterpret_cast<uint4*>(to) = make_uint4(pack<T>(v[0], v[1]), pack<T>(v[2], v[3]),
                                                   pack<T>(v[4], v[5]), pack<T>(v[6], v[7]));
      }
    }
    if (call.transposed == nullptr) continue;
#pragma unroll
    for (int i = 0; i < 8; i++) turned[chunk * 8 + i][pixel] = narrow<T>(v[i]);
    __syncthreads();
    // Four threads a channel, eight pixels each.
    const int channel = threadIdx.x / 4, first_pixel = threadIdx.x % 4 * 8;
    if (c0 + channel < x.c && first + first_pixel < call.transposed_stride) {
      T* row = static_cast<T*>(call.transposed) +
               (int64_t{picture} * x.c + c0 + channel) * call.transposed_stride + first +
               first_pixel;
      const T* from = &turned[channel][first_pixel];
      if constexpr (sizeof(T) == 2) {
        *reinterpret_cast<uint4*>(row) = *reinterpret_cast<const uint4*>(from);
      } else {
        for (int i = 0; i < 8; i++) row[i] = from[i];
      }
    }
    __syncthreads();
  }
  if (call.largest == nullptr) return;
  for (int mask = 4; mask > 0; mask /= 2) squares += __shfl_xor_sync(~0u, squares, mask);
  // Bits of floats that are not negative are in the order of the floats.
  if (chunk == 0 && inside) atomicMax(call.largest + picture, __float_as_uint(sqrtf(squares)));
}

// Block: one row. Two passes over it: the running maximum and sum, then the weights.
template <class T>
__global__ void __launch_bounds__(kThreads) softmax_kernel(Softmax call) {
  begin_grid();
  const float* s = call.s + int64_t{blockIdx.x} * call.s_stride;
  T* p = static_cast<T*>(call.p) + int64_t{blockIdx.x} * call.p_stride;
  float largest = -INFINITY, sum = 0;
  const auto see = [&](float v0, float v1, float v2, float v3) {
    const float higher = fmaxf(fmaxf(largest, fmaxf(v0, v1)), fmaxf(v2, v3));
    sum = sum * exp2f(largest - higher) + exp2f(v0 - higher) + exp2f(v1 - higher) +
          exp2f(v2 - higher) + exp2f(v3 - higher);
    largest = higher;
  };
  const int whole = call.columns / 4 * 4;
  for (int i = 4 * threadIdx.x; i < whole; i += 4 * kThreads) {
    const float4 v = *reinterpret_cast<const float4*>(s + i);
    see(v.x, v.y, v.z, v.w);
  }
  if (whole + static_cast<int>(threadIdx.x) < call.columns) {
    see(s[whole + threadIdx.x], -INFINITY, -INFINITY, -INFINITY);
  }
  __shared__ float maxima[kThreads / 32];
  float top = largest;
  for (int mask = 16; mask > 0; mask /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, mask));
  if (threadIdx.x % 32 == 0) maxima[threadIdx.x / 32] = top;
  __syncthreads();
  top = maxima[0];
  for (int w = 1; w < kThreads / 32; w++) top = fmaxf(top, maxima[w]);
  double total[1] = {sum > 0 ? sum * exp2f(largest - top) : 0};
  block_sums<kThreads>(total);
  const float scale = static_cast<float>(1 / total[0]);
  for (int i = 4 * threadIdx.x; i < whole; i += 4 * kThreads) {
    const float4 v = *reinterpret_cast<const float4*>(s + i);
    const float w[4] = {exp2f(v.x - top) * scale, exp2f(v.y - top) * scale,
                        exp2f(v.z - top) * scale, exp2f(v.w - top) * scale};
    if constexpr (sizeof(T) == 2) {
      *reinterpret_cast<uint2*>(p + i) = make_uint2(pack<T>(w[0], w[1]), pack<T>(w[2], w[3]));
    } else {
      *reinterpret_cast<float4*>(p + i) = make_float4(w[0], w[1], w[2], w[3]);
    }
  }
  const int last = whole + static_cast<int>(threadIdx.x);
  if (last < call.p_stride) {
    p[last] = narrow<T>(last < call.columns ? exp2f(s[last] - top) * scale : 0);
  }
}

}  // namespace

void channel_moments(Element element, const Pictures& x, const Partials& stats,
                     const Machine& machine) {
  const Shape3 shape = {dim3(static_cast<unsigned>(stats.slots), static_cast<unsigned>(x.n)),
                        dim3(kThreads)};
  const int64_t share = (x.pixels() + stats.slots - 1) / stats.slots;
  const auto kernel = element == Element::kF32    ? channel_moments_kernel<float>
                      : element == Element::kBF16 ? channel_moments_kernel<bf16>
                                                  : channel_moments_kernel<f16>;
  launch("channel_moments", kernel, shape, machine, x, stats, share);
}

void finish_norm(const Partials& stats, int n, int c, const NormWeights& norm, float2* affine,
                 int affine_stride, const Machine& machine) {
  const Shape3 shape = {dim3(static_cast<unsigned>(norm.groups), static_cast<unsigned>(n)),
                        dim3(kFinishThreads)};
  launch("finish_norm", finish_norm_kernel, shape, machine, stats, c, norm, affine, affine_stride);
}

void apply_norm(const ApplyNorm& call, const Machine& machine) {
  const Shape3 shape = {
      dim3(blocks_for(call.x.pixels(), kApplyPixels), static_cast<unsigned>(call.x.n)),
      dim3(kThreads)};
  const auto kernel = call.element == Element::kF32    ? apply_norm_kernel<float>
                      : call.element == Element::kBF16 ? apply_norm_kernel<bf16>
                                                       : apply_norm_kernel<f16>;
  launch("apply_norm", kernel, shape, machine, call);
}

void softmax(const Softmax& call, const Machine& machine) {
  const Shape3 shape = {dim3(static_cast<unsigned>(call.rows)), dim3(kThreads)};
  const auto kernel = call.element == Element::kF32    ? softmax_kernel<float>
                      : call.element == Element::kBF16 ? softmax_kernel<bf16>
                                                       : softmax_kernel<f16>;
  launch("softmax", kernel, shape, machine, call);
}

}  // namespace calotype::cuda
