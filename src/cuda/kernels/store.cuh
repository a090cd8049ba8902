// Results that leave the network: any dtype, any strides.
#pragma once

#include "cuda/kernels/element.cuh"
#include "cuda/kernels/kernels.h"

namespace calotype::cuda {

// round(255 * clamp(v / 2 + 0.5)), NaN to 0; in float64 as to_uint8 is, so that ties fall the same.
__device__ __forceinline__ uint8_t to_byte(float v) {
  const double unit = fma(static_cast<double>(v), 0.5, 0.5);
  return unit > 0 ? static_cast<uint8_t>(fma(255.0, fmin(unit, 1.0), 0.5)) : uint8_t{0};
}

__device__ __forceinline__ void store_value(const Store& store, int b, int y, int x, int c,
                                            float v) {
  const int64_t i =
      b * store.strides[0] + y * store.strides[1] + x * store.strides[2] + c * store.strides[3];
  switch (store.dtype) {
    case DType::kU8:
      static_cast<uint8_t*>(store.data)[i] = to_byte(v);
      break;
    case DType::kBF16:
      static_cast<bf16*>(store.data)[i] = narrow<bf16>(v);
      break;
    case DType::kF16:
      static_cast<f16*>(store.data)[i] = narrow<f16>(v);
      break;
    default:
      static_cast<float*>(store.data)[i] = v;
      break;
  }
}

}  // namespace calotype::cuda
