// Convolution in float32 throughout, on any GPU.
//
// A tile is 8 x 16 pixels by 64 output channels, 256 threads with 8 pixels and 4 channels each: of
// four channels of depth a thread reads 12 float4 from shared memory for 128 multiply-adds.
#include "cuda/kernels/portable.cuh"

namespace calotype::cuda {
namespace {

constexpr int kThreads = 256, kColumns = kSimtRowTile;
constexpr int kTileH = kSimtTileH;
constexpr int kBoxPixels = (kTileH + 2) * (kTileW + 2);  // of a 3x3's input
// Rows of 64 values and 4 more: neighbouring rows lie 4 banks apart, so that float4 reads of 8 rows
// meet in no bank.
constexpr int kPitch = kSlab + 4;
constexpr size_t kBytes = sizeof(float) * kPitch * (kBoxPixels + kColumns);

__device__ void load_box(const Portable& p, const PortableTile& tile, const Box& box, bool is_main,
                         float* to) {
  const float* from = static_cast<const float*>(box.from->data);
  const int64_t before = tile.picture * box.from->pixels();
  const float2* affine = p.affine.data + int64_t{tile.picture} * p.affine.stride;
  const bool norm = is_main && p.affine;
  for (int i = threadIdx.x; i < box.h * box.w * kSlab; i += kThreads) {
    const int pixel = i / kSlab, c = box.first_channel + i % kSlab, row = pixel / box.w;
    const int at = box.pixel(row, pixel - row * box.w);
    float v = 0;
    if (at >= 0 && c < box.from->c) {
      v = from[box.from->offset(before + at, c)];
      if (norm) v = silu(fmaf(v, affine[c].x, affine[c].y));
    }
    to[pixel * kPitch + i % kSlab] = v;
  }
}

__device__ void load_weights(const Portable& p, int block, int first_row, float* to) {
  const float* from = static_cast<const float*>(p.weights) + block * p.block_pitch;
  for (int i = threadIdx.x; i < kColumns * kSlab; i += kThreads) {
    const int row = first_row + i / kSlab, k = i % kSlab;
    const bool there = row < p.weight_rows && block * kSlab + k < p.depth;
    to[i / kSlab * kPitch + k] = there ? from[row * p.weight_pitch + k] : 0;
  }
}

__global__ void __launch_bounds__(kThreads) simt_conv_kernel(Portable p) {
  begin_grid();
  extern __shared__ float shared[];
  float* const inputs = shared;
  float* const weights = shared + kPitch * kBoxPixels;
  const PortableTile tile(p, blockIdx.x);
  const int column = threadIdx.x % 16, lane = threadIdx.x / 16;
  const int main_slabs = p.slabs * input_phases(p.mode);
  const int first_row = (tile.phase * p.column_tiles + tile.column) * kColumns;
  float sums[kTileH][4] = {};
  int block = 0;
  for (int s = 0; s < main_slabs + p.shortcut_slabs; s++) {
    const bool is_main = s < main_slabs;
    const Box box(p, tile, s);
    const Taps taps =
        is_main ? taps_of(p.mode, s / p.slabs, tile.phase) : taps_of(Mode::kPoint, 0, 0);
    load_box(p, tile, box, is_main, inputs);
    for (int t = 0; t < taps.ny * taps.nx; t++, block++) {
      load_weights(p, block, first_row, weights);
      __syncthreads();
      const int first = (taps.oy + t / taps.nx) * box.w + taps.ox + t % taps.nx + column;
      for (int k = 0; k < kSlab; k += 4) {
        float4 w[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
          w[j] = *reinterpret_cast<const float4*>(weights + (lane + 16 * j) * kPitch + k);
        }
#pragma unroll
        for (int i = 0; i < kTileH; i++) {
          const float4 v =
              *reinterpret_cast<const float4*>(inputs + (first + i * box.w) * kPitch + k);
#pragma unroll
          for (int j = 0; j < 4; j++) {
            sums[i][j] = fmaf(v.x, w[j].x, sums[i][j]);
            sums[i][j] = fmaf(v.y, w[j].y, sums[i][j]);
            sums[i][j] = fmaf(v.z, w[j].z, sums[i][j]);
            sums[i][j] = fmaf(v.w, w[j].w, sums[i][j]);
          }
        }
      }
      __syncthreads();
    }
  }
  const int64_t picture = tile.picture * p.y.pixels();
#pragma unroll
  for (int i = 0; i < kTileH; i++) {
    const int at = output_pixel(p, tile, i, column);
    if (at < 0) continue;
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const int c = tile.column * kColumns + lane + 16 * j;
      if (c >= p.y.c) continue;
      float v = sums[i][j] + (p.bias != nullptr ? p.bias[c] : 0);
      if (p.residual) {
        v += static_cast<const float*>(p.residual.data)[p.residual.offset(picture + at, c)];
      }
      if (p.y) {
        static_cast<float*>(p.y.data)[p.y.offset(picture + at, c)] = v;
      } else {
        store_pixel(p, tile.picture, at, c, v);
      }
    }
  }
}

}  // namespace

void simt_conv(const Conv& conv, const Machine& machine) {
  const Portable p = portable(conv, kTileH);
  launch("simt_conv", simt_conv_kernel,
         {dim3(static_cast<unsigned>(p.tiles)), dim3(kThreads), kBytes}, machine, p);
}

void simt_product(const Product& product, const Machine& machine) {
  const Portable p = portable(product, kColumns, kTileH);
  launch("simt_product", simt_conv_kernel,
         {dim3(static_cast<unsigned>(p.tiles)), dim3(kThreads), kBytes}, machine, p);
}

}  // namespace calotype::cuda
