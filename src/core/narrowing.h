// Numbers that do not fit where they are to be stored.
#pragma once

#include <span>
#include <string>

#include "calotype/tensor.h"

namespace calotype {

// Throws Error(kInvalidData), beginning with `what` ("the tensor x"), where convert_elements would
// make infinity of a finite value.
void check_narrowing(std::span<const float> values, DType dtype, const std::string& what);

}  // namespace calotype
