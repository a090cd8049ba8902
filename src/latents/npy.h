// NumPy's array files (numpy.lib.format, versions 1.0 to 3.0): one array, as np.save writes it.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "calotype/tensor.h"

namespace calotype {

bool looks_like_npy(std::span<const std::byte> bytes);

struct NpyArray {
  TensorView view;  // in C order
  // What `view` points into where the file is in Fortran order; else null, and it is the file.
  std::shared_ptr<const std::vector<std::byte>> storage;
};

// Checks everything before it returns: magic, version, header, dtype, and that the data is exactly
// as long as shape and dtype say. Little-endian floats and integers and booleans, in C or Fortran
// order; big-endian and other dtypes are refused by name (kUnsupported), the rest with
// kInvalidData.
NpyArray parse_npy(std::span<const std::byte> bytes, const std::string& file);

// Version 1.0, C order. `dtype`: F64, F32, F16 (NumPy has no bfloat16). Throws
// Error(kInvalidArgument).
std::vector<std::byte> npy_bytes(std::span<const float> values, const Shape& shape, DType dtype);

}  // namespace calotype
