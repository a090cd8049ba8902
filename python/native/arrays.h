// Arrays of Python (numpy, torch, whatever speaks DLPack) to Calotype's tensors and back.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <string_view>
#include <vector>

#include "calotype/tensor.h"

namespace calotype::python {

namespace nb = nanobind;

using AnyArray = nb::ndarray<nb::ro>;
using FloatArray = nb::ndarray<nb::numpy, float, nb::ndim<4>>;
using ByteArray = nb::ndarray<nb::numpy, uint8_t, nb::ndim<4>>;

// `array` (rank 4, "NCHW" or "NHWC") as NHWC float32 values times `scale` plus `offset`; without a
// copy where it is that already, and then only valid as long as `array`. Needs no GIL.
Tensor to_tensor(const AnyArray& array, std::string_view layout, float scale, float offset);

// A view of a dense array in memory, as weights are.
TensorView to_view(const AnyArray& array, const std::string& name);

// numpy arrays that own the tensor's memory: no copy.
// The bits of an array of bfloat16, without a copy; None for other arrays.
nb::object bfloat_bits(const nb::object& array);

FloatArray to_numpy(Tensor tensor);
ByteArray to_numpy(std::vector<uint8_t> bytes, const Shape& shape);

}  // namespace calotype::python
