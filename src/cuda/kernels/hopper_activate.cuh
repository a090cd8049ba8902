// GroupNorm and SiLU of a slab in shared memory, where TMA put it and wgmma reads it.
#pragma once

#include "cuda/kernels/ptx.cuh"

namespace calotype::cuda {

// SiLU of the affine of two values; factors are halved, see silu_of_half.
template <class T>
__device__ __forceinline__ uint32_t activate(uint32_t pair, float2 low, float2 high) {
  const float2 v = unpack<T>(pair);
  return pack<T>(silu_of_half(fmaf(v.x, low.x, low.y)), silu_of_half(fmaf(v.y, high.x, high.y)));
}

// A thread's share of one slab, a box of side x side pixels that TMA has loaded when `loaded` says
// so: eight channels of every kThreads / 8th pixel. `height` x `width`: of the picture.
template <class T, int kThreads>
__device__ __forceinline__ void activate_slab(uint8_t* stage, const float2* affine, int side,
                                              int first_y, int first_x, int height, int width,
                                              uint32_t loaded, uint32_t parity) {
  constexpr int kAtOnce = 3;  // pixels in flight: 12 registers of values
  constexpr int kStep = kThreads / 8;
  const int thread = threadIdx.x & (kThreads - 1), chunk = thread & 7, first = thread >> 3;
  float2 factor[8];
#pragma unroll
  for (int i = 0; i < 8; i++) {
    factor[i] = __ldg(affine + chunk * 8 + i);
    factor[i].x *= 0.5f;
    factor[i].y *= 0.5f;
  }
  barrier_wait(loaded, parity);
  const int pixels = side * side;
  // pixel / side as a product: exact for pixel < 336, sides 16 to 18.
  const int reciprocal = 65536 / side + 1;
  // Pixel p's 16-byte chunk c lies at chunk c ^ (p % 8) of its 128-byte row; p % 8 is the same for
  // all of a thread's pixels.
  uint8_t* base = stage + first * 128 + ((chunk ^ (first & 7)) << 4);
#pragma unroll 1
  for (int i = 0; i < pixels; i += kStep * kAtOnce) {
    uint4 v[kAtOnce];
    bool inside[kAtOnce];
#pragma unroll
    for (int u = 0; u < kAtOnce; u++) {
      const int pixel = first + i + kStep * u, row = (pixel * reciprocal) >> 16;
      const int y = first_y + row, x = first_x + pixel - row * side;
      inside[u] = static_cast<unsigned>(y) < static_cast<unsigned>(height) &&
                  static_cast<unsigned>(x) < static_cast<unsigned>(width);
      if (pixel < pixels) v[u] = *reinterpret_cast<const uint4*>(base + 128 * (i + kStep * u));
    }
#pragma unroll
    for (int u = 0; u < kAtOnce; u++) {
      v[u].x = activate<T>(v[u].x, factor[0], factor[1]);
      v[u].y = activate<T>(v[u].y, factor[2], factor[3]);
      v[u].z = activate<T>(v[u].z, factor[4], factor[5]);
      v[u].w = activate<T>(v[u].w, factor[6], factor[7]);
    }
#pragma unroll
    for (int u = 0; u < kAtOnce; u++) {
      if (first + i + kStep * u < pixels) {
        *reinterpret_cast<uint4*>(base + 128 * (i + kStep * u)) =
            inside[u] ? v[u] : make_uint4(0, 0, 0, 0);  // the padding is not normed
      }
    }
  }
}

}  // namespace calotype::cuda
