// Descriptions of arrays for TMA.
#pragma once

#include <cuda.h>

#include "cuda/kernels/kernels.h"

namespace calotype::cuda {

// Coordinates (channel, x, y, picture, plane) of planar pictures: a box is 64 channels of `box_w` x
// `box_h` pixels of one picture, swizzled by 128 bytes. Outside of the picture it reads zeros and
// writes nothing. `phase` 0 to 3 takes every second row and column, from (phase / 2, phase % 2) on;
// -1 takes all.
CUtensorMap picture_map(Element element, const Pictures& pictures, int box_w, int box_h,
                        int phase = -1);
// Rows of 64 elements, one after the other: (element, row).
CUtensorMap weight_map(Element element, const void* data, int64_t rows, int box_rows);
// The same of e4m3: rows of 64 bytes, swizzled by 64.
CUtensorMap fp8_weight_map(const void* data, int64_t rows, int box_rows);
// Matrices [n][rows][columns], rows `pitch` elements apart, as (column, row, n, 0); a box is 64
// columns of `box_rows` rows.
CUtensorMap matrix_map(Element element, const void* data, int64_t n, int64_t n_pitch, int64_t rows,
                       int64_t columns, int64_t pitch, int box_rows);
// Planar pictures as matrices, a row a pixel: (channel, row, picture, plane). Some rows of some
// pictures.
CUtensorMap token_map(Element element, const Pictures& pictures, int first_picture, int count,
                      int64_t first_row, int64_t rows, int box_rows);

}  // namespace calotype::cuda
