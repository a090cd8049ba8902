// 16-bit and 32-bit floats, in pairs as the registers hold them.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace calotype::cuda {

using bf16 = __nv_bfloat16;
using f16 = __half;

template <class T>
__device__ __forceinline__ float2 unpack(uint32_t pair);
template <>
__device__ __forceinline__ float2 unpack<bf16>(uint32_t pair) {
  return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
}
template <>
__device__ __forceinline__ float2 unpack<f16>(uint32_t pair) {
  return __half22float2(*reinterpret_cast<const __half2*>(&pair));
}

template <class T>
__device__ __forceinline__ uint32_t pack(float low, float high);
template <>
__device__ __forceinline__ uint32_t pack<bf16>(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
template <>
__device__ __forceinline__ uint32_t pack<f16>(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

__device__ __forceinline__ float widen_one(float v) { return v; }
__device__ __forceinline__ float widen_one(bf16 v) { return __bfloat162float(v); }
__device__ __forceinline__ float widen_one(f16 v) { return __half2float(v); }

template <class T>
__device__ __forceinline__ T narrow(float v);
template <>
__device__ __forceinline__ float narrow<float>(float v) {
  return v;
}
template <>
__device__ __forceinline__ bf16 narrow<bf16>(float v) {
  return __float2bfloat16_rn(v);
}
template <>
__device__ __forceinline__ f16 narrow<f16>(float v) {
  return __float2half_rn(v);
}

// v * sigmoid(v), given u = v / 2: sigmoid(v) = (1 + tanh(v / 2)) / 2, so v * sigmoid(v) = u + u
// tanh(u). One instruction of the special function unit instead of two; tanh.approx errs by 2^-11,
// an eighth of bf16's rounding.
__device__ __forceinline__ float silu_of_half(float u) {
  float t;
  asm("tanh.approx.f32 %0, %1;" : "=f"(t) : "f"(u));
  return fmaf(u, t, u);
}

__device__ __forceinline__ float exp2_fast(float v) {
  float e;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(v));
  return e;
}

// SiLU of the affine of two values; factors are halved, see silu_of_half.
template <class T>
__device__ __forceinline__ uint32_t activate(uint32_t pair, float2 low, float2 high) {
  const float2 v = unpack<T>(pair);
  return pack<T>(silu_of_half(fmaf(v.x, low.x, low.y)), silu_of_half(fmaf(v.y, high.x, high.y)));
}

// As exact as float32 is.
__device__ __forceinline__ float silu(float v) { return v / (1.0f + expf(-v)); }

}  // namespace calotype::cuda
