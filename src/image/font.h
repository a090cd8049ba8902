// A 5x7 dot matrix font for captions.
#pragma once

#include <cstdint>
#include <string_view>

#include "calotype/tensor.h"

namespace calotype {

// A character's cell at scale 1: 5x7 dots and a descender's row, with a column and a row between.
inline constexpr int64_t kFontAdvance = 6;
inline constexpr int64_t kFontLine = 10;

// Draws `text` (ASCII; other bytes become '?') into `image` [1, H, W, 3], each dot scale x scale
// pixels of `value`, its cell's top left at (x, y). What falls outside is left out.
void draw_text(Tensor& image, std::string_view text, int64_t x, int64_t y, int64_t scale,
               float value);

}  // namespace calotype
