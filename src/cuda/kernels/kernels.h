// The kernels as the host sees them: plain descriptions of what to compute, and one function each.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstdint>

#include "calotype/tensor.h"
#include "cuda/kernels/geometry.h"
#include "cuda/kernels/tiling.h"

namespace calotype::cuda {

enum class Element : int { kF32, kBF16, kF16 };  // of activations and packed weights

// What launches depend on.
struct Machine {
  int processors = 0;    // streaming multiprocessors
  int architecture = 0;  // 90 for sm_90
  int shared_bytes = 0;  // that a block can have
  bool overlap = false;  // programmatic dependent launch (sm_90 and later)
  cudaStream_t stream = nullptr;
};

// An activation in device memory, pixel p = (b h + y) w + x.
// - Dense: channel c at p stride + c.
// - Planar, for the kernels of sm_90a: planes of 64 channels, channel c at (c / 64 (n h w) + p)
//   stride + c % 64. A box of a slab is then dense rows, and what has fewer channels can take the
//   memory of the first planes of what has more. Channels beyond the last are zeros where c > 64.
// `stride` is a multiple of 8 where the type has 2 bytes. Rows of a larger picture: `data` is the
// first one's, and planes lie `plane` pixels apart.
struct Pictures {
  void* data = nullptr;
  int n = 0, h = 0, w = 0, c = 0;
  int64_t stride = 0;
  bool planar = false;
  int64_t plane = 0;  // 0: n h w

  CALOTYPE_HD explicit operator bool() const { return data != nullptr; }
  CALOTYPE_HD int64_t pixels() const { return int64_t{h} * w; }
  CALOTYPE_HD int64_t plane_pixels() const { return plane > 0 ? plane : n * pixels(); }
  // Channels that are there to be read, zeros beyond c included.
  CALOTYPE_HD int padded() const { return planar && c > kSlab ? slabs_of(c) * kSlab : c; }
  CALOTYPE_HD int64_t offset(int64_t pixel, int channel) const {
    if (!planar) return pixel * stride + channel;
    return (channel / kSlab * plane_pixels() + pixel) * stride + channel % kSlab;
  }
};

// Where results go that leave the network: any dtype of DeviceArray, any strides (b, y, x, c).
struct Store {
  void* data = nullptr;
  DType dtype = DType::kF32;
  std::array<int64_t, 4> strides = {};
};

// Statistics of `count` values: their mean and the sum of squared deviations from it.
struct Moments {
  float count, mean, m2;
};

// Moments as a kernel leaves them: [n][units][slots]; a unit is `width` neighbouring channels.
// Every slot is written, by one block each, in an order that depends on the shapes alone. A kernel
// that computes some rows of a picture has some of its slots: `data` is the first of them.
struct Partials {
  Moments* data = nullptr;
  int slots = 0, units = 0, width = 1;
  int pitch = 0;  // slots of a unit, in all

  CALOTYPE_HD Moments& at(int64_t picture, int unit, int slot) const {
    return data[(picture * units + unit) * pitch + slot];
  }
};

// GroupNorm as one multiply-add per (picture, channel): v * x + y. [n][stride], zero beyond c.
struct Affine {
  const float2* data = nullptr;
  int stride = 0;

  CALOTYPE_HD explicit operator bool() const { return data != nullptr; }
};

// y = conv(f(x)) + bias [+ residual | + shortcut's 1x1]; f = silu(affine) where there is one.
struct Conv {
  Element element = Element::kBF16;
  Mode mode = Mode::kSame;
  Pictures x;
  // Rows that x has above those of y: 0 or 1, where both are rows of larger pictures.
  int rows_above = 0;
  Affine affine;
  Pictures shortcut;              // read through a 1x1 convolution whose weights follow the others
  Pictures residual;              // added; may be y
  const void* weights = nullptr;  // as pack_conv leaves them
  int weight_rows = 0;            // of one output phase: output channels, rounded up to row_tile
  int row_tile = 0;
  const float* bias = nullptr;  // [weight_rows]
  // Where x is activated to e4m3 and its weights are e4m3 (see pack_fp8): what sums are multiplied
  // by, [weight_rows]. hopper_conv alone, bf16, kSame, with a norm, between activations.
  const float* scale = nullptr;
  Pictures y;  // always its shape; data is null where `store` is used
  Store store;
  Partials stats;  // data is null where nobody asks
};

// sm_90a: TMA, wgmma. bf16 and f16. Results to y take row_tile 128, to store 8 or 32.
void hopper_conv(const Conv& conv, const Machine& machine);
// The same for what leaves the network in three channels or fewer; row_tile as hopper_conv's.
inline bool is_hopper_conv_out(const Conv& conv) {
  return conv.mode == Mode::kSame && conv.affine && !conv.shortcut && !conv.residual && !conv.y &&
         conv.y.c <= 3;
}
void hopper_conv_out(const Conv& conv, const Machine& machine);
// sm_80 and later: mma.sync. bf16 and f16. Results to y take row_tile 128 or 32, to store 32.
void mma_conv(const Conv& conv, const Machine& machine);
// float32 arithmetic. row_tile 64.
void simt_conv(const Conv& conv, const Machine& machine);

// Matrix product c[m][n] = a[m][k] b[n][k]^T on the same two kernels (mma_conv, simt_conv). Leading
// dimensions in elements, of 2-byte types multiples of 8.
struct Product {
  Element element = Element::kBF16;
  int m = 0, n = 0, k = 0;
  const void* a = nullptr;
  int64_t lda = 0;
  const void* b = nullptr;
  int64_t ldb = 0;
  void* c = nullptr;
  int64_t ldc = 0;
  bool c_is_f32 = false;
};
void mma_product(const Product& product, const Machine& machine);
void simt_product(const Product& product, const Machine& machine);

// Moments of every channel (width 1) of an activation.
void channel_moments(Element element, const Pictures& x, const Partials& stats,
                     const Machine& machine);

struct NormWeights {
  const float* weight = nullptr;
  const float* bias = nullptr;
  int groups = 0;
  float eps = 0;
};
// Merges the moments of a group (all slots) in a fixed order, in float64, and makes its affine.
void finish_norm(const Partials& stats, int n, int c, const NormWeights& norm, float2* affine,
                 int affine_stride, const Machine& machine);

// y = affine(x), no SiLU; transposed, where given, also [n][c][transposed_stride], a multiple of 8,
// zeros beyond the pixels. largest, where given: the largest |y[pixel]| of a picture, as bits of a
// float (set to 0 before).
struct ApplyNorm {
  Element element = Element::kBF16;
  Pictures x, y;
  Affine affine;
  void* transposed = nullptr;
  int64_t transposed_stride = 0;
  unsigned* largest = nullptr;
};
void apply_norm(const ApplyNorm& call, const Machine& machine);

// p[row] = 2^(s[row] - max) / sum, rows of `columns` values, zeros from there to p_stride; strides
// are the columns rounded up to a multiple of 8.
struct Softmax {
  Element element = Element::kBF16;
  const float* s = nullptr;
  int64_t s_stride = 0;
  void* p = nullptr;
  int64_t p_stride = 0;
  int rows = 0, columns = 0;
};
void softmax(const Softmax& call, const Machine& machine);

// q[row] = softmax2(q[row] x^T) x for some rows, in bf16: 2^(score - bound) / sum, where the bound
// on a row's scores is |q| max |x| (Cauchy-Schwarz) less 90, so that no pass over the scores is
// needed to find their maximum. Exponents of bf16 reach from -126 to 127, so a row works unless its
// largest score is some 190 below the bound; such rows are computed once more, slowly and exactly.
// (f16 has no such range.)
struct BoundedAttention {
  Pictures x;                        // keys
  Pictures q;                        // queries in, results out
  const void* transposed = nullptr;  // [n][channels][pitch]: values
  int64_t pitch = 0;
  // Which pictures, and which queries of them; all, where there are several pictures.
  int first_picture = 0, pictures = 0, first_row = 0, rows = 0;
  void* p = nullptr;                  // [pictures][rows][pitch]
  float* sums = nullptr;              // [parts][pictures * rows], see attention_parts
  float* bounds = nullptr;            // [pictures * rows]
  float* scales = nullptr;            // [pictures * rows]
  const unsigned* largest = nullptr;  // [n], see ApplyNorm
};
// On sm_90a; x and q planar.
void hopper_attention(const BoundedAttention& call, const Machine& machine);
// On sm_80 and later; x and q dense, one picture.
void mma_attention(const BoundedAttention& call, const Machine& machine);
// What both consist of beside their products.
void attention_bounds(const BoundedAttention& call, const Machine& machine);
void attention_scales(const BoundedAttention& call, int parts, const Machine& machine);

// The input of a graph: y = map(a), zero beyond the channels. See DeviceArray and InputMap.
struct Import {
  Element element = Element::kBF16;
  const void* a = nullptr;
  DType dtype = DType::kF32;
  std::array<int64_t, 4> strides = {};
  int patch = 1;
  const float2* affine = nullptr;  // (scale, offset) per channel of a; null: 1, 0
  Pictures y;
};
void import_pictures(const Import& call, const Machine& machine);

// Weights of a convolution [out][in][kernel][kernel] as the kernels read them:
// [slab, tap][phase][row][64], then the shortcut's [slab][row][64]; zero in the padding.
struct PackConv {
  Element element = Element::kBF16;
  Mode mode = Mode::kSame;
  int in = 0, out = 0, rows = 0;
  const void* weight = nullptr;  // on the device, F32, F16 or BF16
  DType dtype = DType::kF32;
  int shortcut_in = 0;
  const void* shortcut = nullptr;
  DType shortcut_dtype = DType::kF32;
  void* packed = nullptr;
};
void pack_conv(const PackConv& call, const Machine& machine);
// The same in e4m3, each output channel times a power of two that fills its range; the shortcut's
// weights stay bf16, times the same. scale[rows]: the inverse.
// kSame.
void pack_fp8(const PackConv& call, float* scale, const Machine& machine);

// c = alpha * op(a) b, [c][c] each, a and b in float32, sums in float64; op transposes where asked.
// As a vector: b is [c], c is [c].
struct Fold {
  int size = 0, columns = 0;  // c is [size][columns]
  const float* a = nullptr;
  bool transpose_a = false;
  const float* b = nullptr;
  const float* add = nullptr;  // [size][columns], added
  double alpha = 1;
  float* c = nullptr;
};
void fold(const Fold& call, const Machine& machine);

// F32, F16 or BF16 to float32.
void widen(const void* from, DType dtype, int64_t count, float* to, const Machine& machine);

}  // namespace calotype::cuda
