// What the two portable convolution kernels (mma_conv, simt_conv) share: tiles of 8 or 16 rows of
// 16 pixels, and how their work is described.
#pragma once

#include "core/cat.h"
#include "cuda/kernels/element.cuh"
#include "cuda/kernels/launch.cuh"
#include "cuda/kernels/store.cuh"

namespace calotype::cuda {

constexpr int kTileW = kPortableTileW;

struct Portable {
  Mode mode;
  // Pixels of a 1x1 are taken one after the other, 16 a row, whatever the picture's shape.
  bool linear;
  int pictures, height, width;  // of the outputs of one phase; linear: rows of 16, 16
  int64_t pixels;               // linear: of a picture
  int tile_h, tiles_x, tiles_y, column_tiles;
  int tiles;  // of all pictures
  Pictures x, shortcut, residual, y;
  int rows_above;
  int slabs, shortcut_slabs;
  Affine affine;
  const void* weights;
  int64_t weight_pitch, block_pitch;  // elements between rows, and between (slab, tap) blocks
  int weight_rows, depth;             // rows and channels that are there; INT_MAX: padded
  const float* bias;                  // null: none
  Store store;
  bool plain;  // store is float32, channels one after the other: strides[1] from pixel to pixel
  Partials stats;
  // Of products in an attention: c = 2^(a b^T - row value), and sums of its rows in parts
  // [part][row]; or, without sums, c = a b^T row value.
  const float* row_values;
  float* row_sums;
};

// Number -> tile; column tiles change fastest, so that blocks that run together share pixels.
struct PortableTile {
  int x, y, phase, column, number, picture;

  __device__ PortableTile(const Portable& p, int index) {
    const int columns = p.column_tiles * output_phases(p.mode);
    const int tile = index / columns, in_picture = p.tiles_x * p.tiles_y;
    const int nt = index - tile * columns;
    picture = tile / in_picture;
    const int place = tile - picture * in_picture;
    phase = nt / p.column_tiles;
    column = nt - phase * p.column_tiles;
    y = place / p.tiles_x;
    x = (place - y * p.tiles_x) * kTileW;
    y *= p.tile_h;
    number = place * output_phases(p.mode) + phase;
  }
};

// A slab's box: where it is in the input.
struct Box {
  const Pictures* from;
  int first_channel, first_y, first_x, h, w;  // h, w of the box
  int step, phase_y, phase_x;                 // kDown: pixel (2 y + phase_y, 2 x + phase_x)
  bool linear;

  __device__ Box(const Portable& p, const PortableTile& tile, int slab) {
    const int main_slabs = p.slabs * input_phases(p.mode);
    const bool is_main = slab < main_slabs;
    from = is_main ? &p.x : &p.shortcut;
    const int phase = is_main ? slab / p.slabs : 0;
    first_channel = (is_main ? slab - phase * p.slabs : slab - main_slabs) * kSlab;
    const int margin = is_main ? box_margin(p.mode) : 0, origin = is_main ? box_origin(p.mode) : 0;
    first_y = tile.y + origin + (is_main ? p.rows_above : 0);
    first_x = tile.x + origin;
    h = p.tile_h + margin;
    w = kTileW + margin;
    step = is_main && p.mode == Mode::kDown ? 2 : 1;
    phase_y = phase >> 1;
    phase_x = phase & 1;
    linear = p.linear;
  }

  // Of the residual: 64 of the tile's `columns` output channels.
  __device__ Box(const Portable& p, const PortableTile& tile, int slab, int columns) {
    from = &p.residual;
    first_channel = tile.column * columns + slab * kSlab;
    first_y = tile.y;
    first_x = tile.x;
    h = p.tile_h;
    w = kTileW;
    step = p.mode == Mode::kUp ? 2 : 1;
    phase_y = tile.phase >> 1;
    phase_x = tile.phase & 1;
    linear = p.linear;
  }

  // Offset of a pixel of the box in the picture, in pixels; -1 outside.
  __device__ __forceinline__ int pixel(int row, int column) const {
    if (linear) {
      const int at = (first_y + row) * kTileW + first_x + column;
      return at < from->h * from->w ? at : -1;
    }
    const int y = (first_y + row) * step + phase_y, x = (first_x + column) * step + phase_x;
    if (static_cast<unsigned>(y) >= static_cast<unsigned>(from->h) ||
        static_cast<unsigned>(x) >= static_cast<unsigned>(from->w)) {
      return -1;
    }
    return y * from->w + x;
  }
};

// Where the output of a tile's pixel is: offset in pixels, -1 outside. A batch has less than 2^31.
__device__ __forceinline__ int output_pixel(const Portable& p, const PortableTile& tile, int row,
                                            int column) {
  const int y = tile.y + row, x = tile.x + column;
  if (p.linear) {
    const int at = y * kTileW + x;
    return at < p.pixels ? at : -1;
  }
  if (y >= p.height || x >= p.width) return -1;
  if (p.mode != Mode::kUp) return y * p.width + x;
  return (2 * y + (tile.phase >> 1)) * p.y.w + 2 * x + (tile.phase & 1);
}

__device__ __forceinline__ void store_pixel(const Portable& p, int picture, int pixel, int c,
                                            float v) {
  store_value(p.store, picture, pixel / p.y.w, pixel % p.y.w, c, v);
}

// Cuts the outputs into tiles of `tile_h` rows.
inline void cut_into_tiles(Portable& p, int tile_h) {
  p.tile_h = tile_h;
  p.tiles_x = (p.width + kTileW - 1) / kTileW;
  p.tiles_y = (p.height + tile_h - 1) / tile_h;
  const int64_t tiles =
      int64_t{p.tiles_x} * p.tiles_y * p.column_tiles * output_phases(p.mode) * p.pictures;
  if (tiles > INT32_MAX / 2) {
    fail(ErrorCode::kUnsupported, "the batch is too large for the GPU: ", p.pictures, " pictures, ",
         tiles, " tiles");
  }
  p.tiles = static_cast<int>(tiles);
}

inline Portable portable(const Conv& conv, int tile_h) {
  Portable p = {};
  p.mode = conv.mode;
  p.linear = conv.mode == Mode::kPoint;
  p.pictures = conv.y.n;
  p.pixels = conv.y.pixels();
  p.height = p.linear                 ? static_cast<int>((p.pixels + kTileW - 1) / kTileW)
             : conv.mode == Mode::kUp ? conv.y.h / 2
                                      : conv.y.h;
  p.width = p.linear ? kTileW : conv.mode == Mode::kUp ? conv.y.w / 2 : conv.y.w;
  p.column_tiles = conv.weight_rows / conv.row_tile;
  p.x = conv.x;
  p.rows_above = conv.rows_above;
  p.shortcut = conv.shortcut;
  p.residual = conv.residual;
  p.y = conv.y;
  p.slabs = slabs_of(conv.x.c);
  p.shortcut_slabs = conv.shortcut ? slabs_of(conv.shortcut.c) : 0;
  p.affine = conv.affine;
  p.weights = conv.weights;
  p.weight_pitch = kSlab;
  p.block_pitch = int64_t{conv.weight_rows} * output_phases(conv.mode) * kSlab;
  p.weight_rows = p.depth = INT32_MAX;
  p.bias = conv.bias;
  p.store = conv.store;
  p.stats = conv.stats;
  cut_into_tiles(p, tile_h);
  return p;
}

// c = a b^T as a 1x1 convolution: pixels are rows of a, output channels rows of b.
inline Portable portable(const Product& product, int row_tile, int tile_h) {
  Portable p = {};
  p.mode = Mode::kPoint;
  p.linear = true;
  p.pictures = 1;
  p.pixels = product.m;
  p.height = (product.m + kTileW - 1) / kTileW;
  p.width = kTileW;
  p.column_tiles = (product.n + row_tile - 1) / row_tile;
  p.x = {const_cast<void*>(product.a), 1, product.m, 1, product.k, product.lda};
  p.y = {product.c_is_f32 ? nullptr : product.c, 1, product.m, 1, product.n, product.ldc};
  p.slabs = slabs_of(product.k);
  p.weights = product.b;
  p.weight_pitch = product.ldb;
  p.block_pitch = kSlab;
  p.weight_rows = product.n;
  p.depth = product.k;
  if (product.c_is_f32) {
    p.store = {product.c, DType::kF32, {0, product.ldc, 0, 1}};
    p.plain = true;
  }
  cut_into_tiles(p, tile_h);
  return p;
}

}  // namespace calotype::cuda
