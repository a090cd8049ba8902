// Pictures of a batch, one by one: a batch of a hundred takes the memory of one. Nothing is copied
// that need not be, since it all counts against --memory.
#pragma once

#include <cstdint>
#include <string>

#include "calotype/tensor.h"

namespace calotype::cli {

// Picture `b` of [B, …] as [1, …]: refers to `batch`.
Tensor picture_of(const Tensor& batch, int64_t b);

// pad_to_factor; refers to `image` where there is nothing to pad.
Tensor padded_picture(const Tensor& image, int64_t factor);

// crop; the picture itself where there is nothing to cut.
Tensor cropped_picture(Tensor image, int64_t height, int64_t width);

// Puts [1, …] at place `b` of `batch`, which is made [count, …] when it is empty.
void put_picture(Tensor& batch, int64_t b, int64_t count, const Tensor& picture);

// Throws Error(kInvalidData) where what `model` makes of `input` holds NaN or infinity: as a
// picture it would be black, with nothing to say why.
void check_finite(const Tensor& result, const std::string& input, const std::string& model);

// Channels [first, first + count) of NHWC.
Tensor channels_of(const Tensor& tensor, int64_t first, int64_t count);

// NHWC side by side along the channels.
Tensor join_channels(const Tensor& a, const Tensor& b);

}  // namespace calotype::cli
