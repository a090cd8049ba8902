// Pictures of a batch, one by one: a batch of a hundred takes the memory of one.
#pragma once

#include <cstdint>

#include "calotype/tensor.h"

namespace calotype::cli {

// Picture `b` of [B, …] as [1, …].
Tensor picture_of(const Tensor& batch, int64_t b);

// Puts [1, …] at place `b` of `batch`, which is made [count, …] when it is empty.
void put_picture(Tensor& batch, int64_t b, int64_t count, const Tensor& picture);

// Channels [first, first + count) of NHWC.
Tensor channels_of(const Tensor& tensor, int64_t first, int64_t count);

// NHWC side by side along the channels.
Tensor join_channels(const Tensor& a, const Tensor& b);

}  // namespace calotype::cli
