#include "cuda/kernels/tensor_map.h"

#include <cuda_runtime_api.h>

#include <algorithm>

#include "core/cat.h"
#include "cuda/check.h"

namespace calotype::cuda {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

// The driver's function, without linking the driver.
Encode encode_function() {
  static const Encode function = [] {
    void* address = nullptr;
    cudaDriverEntryPointQueryResult found = {};
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &address, 12000,
                                           cudaEnableDefault, &found),
          "cudaGetDriverEntryPointByVersion", "cuTensorMapEncodeTiled");
    if (found != cudaDriverEntryPointSuccess || address == nullptr) {
      fail(ErrorCode::kUnsupported,
           "the NVIDIA driver has no tensor maps; it must be 525 or later");
    }
    return reinterpret_cast<Encode>(address);
  }();
  return function;
}

template <size_t kRank>
CUtensorMap encode(CUtensorMapDataType type, CUtensorMapSwizzle swizzle, const void* data,
                   const cuuint64_t (&sizes)[kRank], const cuuint64_t (&strides)[kRank - 1],
                   const cuuint32_t (&box)[kRank]) {
  CUtensorMap map;
  const cuuint32_t steps[5] = {1, 1, 1, 1, 1};
  const CUresult result =
      encode_function()(&map, type, kRank, const_cast<void*>(data), sizes, strides, box, steps,
                        CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  check_driver(result, "cuTensorMapEncodeTiled");
  return map;
}

template <size_t kRank>
CUtensorMap encode(Element element, const void* data, const cuuint64_t (&sizes)[kRank],
                   const cuuint64_t (&strides)[kRank - 1], const cuuint32_t (&box)[kRank]) {
  return encode(
      element == Element::kF16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
      CU_TENSOR_MAP_SWIZZLE_128B, data, sizes, strides, box);
}

cuuint64_t u64(int64_t v) { return static_cast<cuuint64_t>(v); }

}  // namespace

CUtensorMap picture_map(Element element, const Pictures& p, int box_w, int box_h, int phase) {
  const int py = phase < 0 ? 0 : phase / 2, px = phase < 0 ? 0 : phase % 2;
  const int64_t step = phase < 0 ? 1 : 2, pixel = 2 * p.stride;  // bytes
  const int64_t h = (p.h - py + step - 1) / step, w = (p.w - px + step - 1) / step;
  const char* first = static_cast<const char*>(p.data) + (py * int64_t{p.w} + px) * pixel;
  // A phase without pixels (a picture one pixel high) is never read inside: one pixel stands for
  // it, out of reach of every box.
  const cuuint64_t sizes[5] = {u64(std::min(p.c, kSlab)), u64(w < 1 ? 1 : w), u64(h < 1 ? 1 : h),
                               u64(p.n), u64(slabs_of(p.c))};
  const cuuint64_t strides[4] = {u64(step * pixel), u64(step * p.w * pixel),
                                 u64(p.pixels() * pixel), u64(p.plane_pixels() * pixel)};
  const cuuint32_t box[5] = {kSlab, static_cast<cuuint32_t>(box_w), static_cast<cuuint32_t>(box_h),
                             1, 1};
  return encode(element, first, sizes, strides, box);
}

CUtensorMap weight_map(Element element, const void* data, int64_t rows, int box_rows) {
  const cuuint64_t sizes[2] = {kSlab, u64(rows)};
  const cuuint64_t strides[1] = {2 * kSlab};
  const cuuint32_t box[2] = {kSlab, static_cast<cuuint32_t>(box_rows)};
  return encode(element, data, sizes, strides, box);
}

CUtensorMap fp8_weight_map(const void* data, int64_t rows, int box_rows) {
  const cuuint64_t sizes[2] = {kSlab, u64(rows)};
  const cuuint64_t strides[1] = {kSlab};
  const cuuint32_t box[2] = {kSlab, static_cast<cuuint32_t>(box_rows)};
  return encode(CU_TENSOR_MAP_DATA_TYPE_UINT8, CU_TENSOR_MAP_SWIZZLE_64B, data, sizes, strides,
                box);
}

CUtensorMap matrix_map(Element element, const void* data, int64_t n, int64_t n_pitch, int64_t rows,
                       int64_t columns, int64_t pitch, int box_rows) {
  const cuuint64_t sizes[4] = {u64(columns), u64(rows), u64(n), 1};
  const cuuint64_t strides[3] = {u64(2 * pitch), u64(2 * n_pitch), u64(2 * n * n_pitch)};
  const cuuint32_t box[4] = {kSlab, static_cast<cuuint32_t>(box_rows), 1, 1};
  return encode(element, data, sizes, strides, box);
}

CUtensorMap token_map(Element element, const Pictures& p, int first_picture, int count,
                      int64_t first_row, int64_t rows, int box_rows) {
  const int64_t pixel = 2 * p.stride, picture = p.pixels() * pixel;
  const char* first =
      static_cast<const char*>(p.data) + first_picture * picture + first_row * pixel;
  const cuuint64_t sizes[4] = {u64(std::min(p.c, kSlab)), u64(rows), u64(count),
                               u64(slabs_of(p.c))};
  const cuuint64_t strides[3] = {u64(pixel), u64(picture), u64(p.plane_pixels() * pixel)};
  const cuuint32_t box[4] = {kSlab, static_cast<cuuint32_t>(box_rows), 1, 1};
  return encode(element, first, sizes, strides, box);
}

}  // namespace calotype::cuda
