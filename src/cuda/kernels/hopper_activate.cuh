// GroupNorm and SiLU of a slab in shared memory, where TMA put it and wgmma reads it.
#pragma once

#include "cuda/kernels/ptx.cuh"

namespace calotype::cuda {

// Four of bf16, activated, as e4m3: a GroupNorm keeps them near 1, from 2^-6 to 448 they have all
// of its bits, beyond they saturate. Through f16, which holds what e4m3 does.
__device__ __forceinline__ uint32_t activate_fp8(uint32_t first, uint32_t second,
                                                 const float2* factor) {
  uint32_t four = 0;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const float2 v = unpack<bf16>(i == 0 ? first : second);
    const float2 low = factor[2 * i], high = factor[2 * i + 1];
    const uint32_t u = pack<f16>(fmaf(v.x, low.x, low.y), fmaf(v.y, high.x, high.y));
    uint32_t t, y;
    uint16_t two;
    asm("tanh.approx.f16x2 %0, %1;" : "=r"(t) : "r"(u));
    asm("fma.rn.f16x2 %0, %1, %2, %1;" : "=r"(y) : "r"(u), "r"(t));
    asm("cvt.rn.satfinite.e4m3x2.f16x2 %0, %1;" : "=h"(two) : "r"(y));
    four |= static_cast<uint32_t>(two) << (16 * i);
  }
  return four;
}

// A thread's share of one slab, a box of side x side pixels that TMA has loaded when `loaded` says
// so: eight channels of every kThreads / 8th pixel. `height` x `width`: of the picture. kFp8 leaves
// e4m3 in the first 64 bytes of each pixel's 128.
template <class T, int kThreads, bool kFp8 = false>
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
  // Of e4m3, chunk / 2 of the same row.
  uint8_t* base8 = stage + first * 128 + (((chunk >> 1) ^ (first & 7)) << 4) + (chunk & 1) * 8;
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
    if constexpr (kFp8) {
      // The eight threads of a pixel are neighbours in a warp: all have read before any writes.
      uint2 packed[kAtOnce];
#pragma unroll
      for (int u = 0; u < kAtOnce; u++) {
        packed[u] = make_uint2(activate_fp8(v[u].x, v[u].y, factor),
                               activate_fp8(v[u].z, v[u].w, factor + 4));
      }
      __syncwarp();
#pragma unroll
      for (int u = 0; u < kAtOnce; u++) {
        if (first + i + kStep * u < pixels) {
          *reinterpret_cast<uint2*>(base8 + 128 * (i + kStep * u)) =
              inside[u] ? packed[u] : make_uint2(0, 0);
        }
      }
    } else {
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
}

}  // namespace calotype::cuda
