// In and out of the formats of the kernels: the input of a graph, and weights.
#include <cuda_fp8.h>

#include "core/cat.h"
#include "cuda/kernels/element.cuh"
#include "cuda/kernels/launch.cuh"

namespace calotype::cuda {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ float load_any(const void* data, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::kBF16:
      return widen_one(static_cast<const bf16*>(data)[i]);
    case DType::kF16:
      return widen_one(static_cast<const f16*>(data)[i]);
    case DType::kU8:
      return static_cast<const uint8_t*>(data)[i] * (2.0f / 255.0f) - 1.0f;
    default:
      return static_cast<const float*>(data)[i];
  }
}

// A thread: eight channels of one pixel.
template <class T>
__global__ void __launch_bounds__(kThreads) import_kernel(Import call) {
  begin_grid();
  const Pictures& out = call.y;
  const int chunks = (out.padded() + 7) / 8;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= out.n * out.pixels() * chunks) return;
  const int c0 = static_cast<int>(i % chunks) * 8;
  const int64_t pixel = i / chunks;
  const int x = static_cast<int>(pixel % out.w), patch = call.patch;
  const int y = static_cast<int>(pixel / out.w % out.h);
  const int64_t b = pixel / out.pixels();
  T* to = static_cast<T*>(out.data) + out.offset(pixel, c0);
  // Of two bytes, pixels are whole eights of channels: what lies between them is read, not used.
  const int end = sizeof(T) == 2 ? 8 : min(8, out.c - c0);
  for (int k = 0; k < end; k++) {
    if (c0 + k >= out.c) {
      to[k] = narrow<T>(0);
      continue;
    }
    const int c = ((c0 + k) * patch + y % patch) * patch + x % patch;
    const int64_t at = b * call.strides[0] + y / patch * call.strides[1] +
                       x / patch * call.strides[2] + c * call.strides[3];
    float v = load_any(call.a, call.dtype, at);
    if (call.affine != nullptr) v = fmaf(v, call.affine[c].x, call.affine[c].y);
    to[k] = narrow<T>(v);
  }
}

// A thread: one packed weight.
template <class T>
__global__ void __launch_bounds__(kThreads) pack_conv_kernel(PackConv call, int64_t count) {
  begin_grid();
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= count) return;
  const int lane = static_cast<int>(i % kSlab);
  const int64_t line = i / kSlab;
  const int all_rows = call.rows * output_phases(call.mode);
  const int row = static_cast<int>(line % all_rows);
  int block = static_cast<int>(line / all_rows);
  const int phase = row / call.rows, o = row - phase * call.rows;
  const int slabs = slabs_of(call.in);
  float v = 0;
  if (block >= slabs * taps_per_slab(call.mode)) {
    const int c = (block - slabs * taps_per_slab(call.mode)) * kSlab + lane;
    if (o < call.out && c < call.shortcut_in) {
      v = load_any(call.shortcut, call.shortcut_dtype, int64_t{o} * call.shortcut_in + c);
    }
  } else {
    int in_phase = 0;
    Taps taps = taps_of(call.mode, 0, phase);
    while (block >= slabs * taps.ny * taps.nx) {
      block -= slabs * taps.ny * taps.nx;
      taps = taps_of(call.mode, ++in_phase, phase);
    }
    const int tap = block % (taps.ny * taps.nx);
    const int c = block / (taps.ny * taps.nx) * kSlab + lane;
    if (o < call.out && c < call.in) {
      const int side = call.mode == Mode::kPoint ? 1 : 3;
      const int axis_phase = call.mode == Mode::kDown ? in_phase : phase;
      const Span ys = kernel_span(call.mode, axis_phase >> 1, tap / taps.nx);
      const Span xs = kernel_span(call.mode, axis_phase & 1, tap % taps.nx);
      const int64_t first = (int64_t{o} * call.in + c) * side * side;
      for (int y = ys.first; y <= ys.last; y++) {
        for (int x = xs.first; x <= xs.last; x++) {
          v += load_any(call.weight, call.dtype, first + y * side + x);
        }
      }
    }
  }
  static_cast<T*>(call.packed)[i] = narrow<T>(v);
}

// A block: the weights of one output channel.
__global__ void __launch_bounds__(kThreads) pack_fp8_kernel(PackConv call, float* scale) {
  begin_grid();
  const int o = blockIdx.x;
  __shared__ float largest[kThreads / 32];
  float most = 0;
  const int64_t first = int64_t{o} * call.in * 9;
  if (o < call.out) {
    for (int i = threadIdx.x; i < call.in * 9; i += kThreads) {
      most = fmaxf(most, fabsf(load_any(call.weight, call.dtype, first + i)));
    }
  }
  for (int mask = 16; mask > 0; mask /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, mask));
  if (threadIdx.x % 32 == 0) largest[threadIdx.x / 32] = most;
  __syncthreads();
  for (const float one : largest) most = fmaxf(most, one);
  constexpr float kMost = 448;  // of e4m3
  // What is smaller than 2^-60 counts as zero.
  const float factor = exp2f(floorf(log2f(kMost / fmaxf(most, 0x1p-60f))));
  if (threadIdx.x == 0) scale[o] = 1 / factor;

  const int slabs = slabs_of(call.in), blocks = 9 * slabs;
  auto* packed = static_cast<__nv_fp8_e4m3*>(call.packed);
  for (int i = threadIdx.x; i < blocks * kSlab; i += kThreads) {
    const int block = i / kSlab, tap = block % 9, c = block / 9 * kSlab + i % kSlab;
    float v = 0;
    if (o < call.out && c < call.in) v = load_any(call.weight, call.dtype, first + c * 9 + tap);
    packed[(int64_t{block} * call.rows + o) * kSlab + i % kSlab] = __nv_fp8_e4m3(v * factor);
  }
  auto* beside = reinterpret_cast<bf16*>(packed + int64_t{blocks} * call.rows * kSlab);
  for (int i = threadIdx.x; i < slabs_of(call.shortcut_in) * kSlab; i += kThreads) {
    float v = 0;
    if (o < call.out && i < call.shortcut_in) {
      v = load_any(call.shortcut, call.shortcut_dtype, int64_t{o} * call.shortcut_in + i);
    }
    beside[(int64_t{i / kSlab} * call.rows + o) * kSlab + i % kSlab] = narrow<bf16>(v * factor);
  }
}

// A thread: one element of c.
__global__ void __launch_bounds__(kThreads) fold_kernel(Fold call) {
  begin_grid();
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= int64_t{call.size} * call.columns) return;
  const int row = static_cast<int>(i / call.columns), column = static_cast<int>(i % call.columns);
  double sum = 0;
  for (int k = 0; k < call.size; k++) {
    const int64_t at =
        call.transpose_a ? int64_t{k} * call.size + row : int64_t{row} * call.size + k;
    sum += static_cast<double>(call.a[at]) * call.b[int64_t{k} * call.columns + column];
  }
  sum *= call.alpha;
  if (call.add != nullptr) sum += call.add[i];
  call.c[i] = static_cast<float>(sum);
}

__global__ void __launch_bounds__(kThreads)
    widen_kernel(const void* from, DType dtype, int64_t count, float* to) {
  begin_grid();
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count) to[i] = load_any(from, dtype, i);
}

}  // namespace

void import_pictures(const Import& call, const Machine& machine) {
  const int64_t threads = call.y.n * call.y.pixels() * ((call.y.padded() + 7) / 8);
  const Shape3 shape = {dim3(blocks_for(threads, kThreads)), dim3(kThreads)};
  const auto kernel = call.element == Element::kF32    ? import_kernel<float>
                      : call.element == Element::kBF16 ? import_kernel<bf16>
                                                       : import_kernel<f16>;
  launch("import_pictures", kernel, shape, machine, call);
}

void pack_conv(const PackConv& call, const Machine& machine) {
  const int64_t count = packed_elements(call.mode, call.in, call.shortcut_in, call.rows);
  const Shape3 shape = {dim3(blocks_for(count, kThreads)), dim3(kThreads)};
  const auto kernel = call.element == Element::kF32    ? pack_conv_kernel<float>
                      : call.element == Element::kBF16 ? pack_conv_kernel<bf16>
                                                       : pack_conv_kernel<f16>;
  launch("pack_conv", kernel, shape, machine, call, count);
}

void pack_fp8(const PackConv& call, float* scale, const Machine& machine) {
  const Shape3 shape = {dim3(static_cast<unsigned>(call.rows)), dim3(kThreads)};
  launch("pack_fp8", pack_fp8_kernel, shape, machine, call, scale);
}

void fold(const Fold& call, const Machine& machine) {
  const Shape3 shape = {dim3(blocks_for(int64_t{call.size} * call.columns, kThreads)),
                        dim3(kThreads)};
  launch("fold", fold_kernel, shape, machine, call);
}

void widen(const void* from, DType dtype, int64_t count, float* to, const Machine& machine) {
  const Shape3 shape = {dim3(blocks_for(count, kThreads)), dim3(kThreads)};
  launch("widen", widen_kernel, shape, machine, from, dtype, count, to);
}

}  // namespace calotype::cuda
