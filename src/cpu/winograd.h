// 3x3 convolutions by Winograd's algorithm, at every sampling:
//   same        F(4x4, 3x3), or F(6x6, 3x3) where speed is worth four times the error
//   upsample    nearest 2x then 3x3 is a 2x2 convolution for each of the four phases of the output
//               pixel, on the small picture: F(5x5, 2x2)
//   downsample  stride 2 is a 2x2 convolution over the four phases of the input pixel as so many
//               more channels: F(5x5, 2x2)
//
// Rows of y are aligned to tiles and those to bands in all three, so that a band needs just the
// rows of x that its convolution needs. The phases of an upsampled row's columns share one
// transformed input (the tiles of odd columns start a pixel earlier); those of its rows do not.
#pragma once

#include "cpu/problem.h"

namespace calotype::cpu {

enum class Tiles { kF43, kF63, kF52 };

struct WinogradShape {
  WinogradShape(const Simd& simd, const ConvNode& node, Extent x, Extent y, bool fast);

  Tiles tiles;
  int64_t outputs, taps, points, products;  // of a tile: m, r, n, n^2
  int64_t in, in_padded, out, out_padded;
  int64_t in_phases;   // 4 downsampling: (row, column) phases of x as channels
  int64_t passes;      // 2 upsampling: phases of y's rows, each with its own transformed input
  int64_t out_phases;  // 2 upsampling: phases of y's columns in a pass
  int64_t tile_rows, tile_columns;    // of a picture
  int64_t block_rows, block_columns;  // tiles of a block
  int64_t blocks;                     // in a band
  bool split;                         // products by tiles of AMX, of three bf16 for each float32
  int64_t depth() const { return in_phases * in_padded; }
  int64_t groups() const { return passes * out_phases; }  // of out_padded columns of the weights
  int64_t band_rows() const { return block_rows * outputs * passes; }
  int64_t tiles_of_block() const { return block_rows * block_columns; }
  // The same and more, so that tiles of AMX are full.
  int64_t rows_of(int64_t count) const { return split ? round_up(count, kBlock) : count; }
  int64_t split_floats(int64_t values) const { return split ? values * 3 / 2 : values; }
  int64_t patch_rows() const { return block_rows * outputs + taps - 1; }
  int64_t patch_columns() const { return block_columns * outputs + taps - 1; }

  // Channels that are read, and output channels that are finished, at a time.
  int64_t in_chunk, out_chunk;

  // Planes of one product lie a cache line further apart than they are long: at powers of two all
  // would share their sets of the cache.
  int64_t group_floats() const { return split_floats(depth() * out_padded); }
  int64_t weight_plane() const { return groups() * group_floats() + kBlock; }
  int64_t weight_floats() const { return products * weight_plane(); }
  // What an L3 does not hold until it is read: written past the caches.
  bool weights_are_large() const { return weight_floats() * 4 > (int64_t{16} << 20); }
  // Parts of a thread's scratch, in this order.
  int64_t patch_floats() const { return patch_rows() * patch_columns() * in_chunk; }
  int64_t input_plane() const { return depth() * rows_of(tiles_of_block()) + kBlock; }
  int64_t input_floats() const { return products * input_plane(); }
  // Where each product's input is read once, its result takes the place of the input of the product
  // before: the less of L2 is in use, the more of the weights stays there.
  bool shares_planes() const {
    return out_phases == 1 && out_padded <= out_chunk && out_padded <= depth();
  }
  int64_t result_plane() const {
    return shares_planes() ? input_plane() : rows_of(tiles_of_block()) * out_chunk + kBlock;
  }
  int64_t result_floats() const { return (shares_planes() ? 1 : products) * result_plane(); }
  // Where products are that short, vector units have more to do than tiles: they split the next
  // product's input meanwhile, and read the next block's patch, where one takes all channels.
  bool works_beside() const { return split && out_padded <= 128; }
  bool reads_beside() const { return works_beside() && in_padded == in_chunk && in_phases == 1; }
  int64_t of_amx_floats() const {  // a product's input as three bf16
    const int64_t one = split ? split_floats(depth() * rows_of(tiles_of_block())) : 0;
    return works_beside() ? 2 * one : one;
  }
  int64_t started_floats() const { return out_padded / kBlock; }
  int64_t slot_floats() const;
  int64_t columns_for_amx() const;

  // Blocks of 16 channels [first, end) of the depth that product (row, column) needs: a
  // downsampling filter's odd phases have one tap, and nothing at infinity.
  struct Range {
    int64_t first, end;
  };
  Range depth_of(int64_t row, int64_t column) const;
};

// True where the algorithm takes the layer (kernel 3, enough channels to fill its vectors), and
// where that is faster than direct convolution. It depends on a picture's size, not on how many
// there are.
bool winograd_takes(const ConvNode& node);
bool winograd_pays(const WinogradShape& shape, const ConvNode& node, Extent y);

double winograd_flop(const WinogradShape& shape);
WorkspaceBytes winograd_workspace(const WinogradShape& shape, Extent y, int64_t batch, int threads);
// Transforms the weights into `weights`, of WinogradShape::weight_floats().
void winograd_prepare(const Simd& simd, const ConvNode& node, const WinogradShape& shape,
                      Workspace& work, float* weights, const ThreadPool::Tick& tick);
void winograd_conv(const Simd& simd, const ConvProblem& problem, bool fast, Workspace& work,
                   Stages& stages);

}  // namespace calotype::cpu
