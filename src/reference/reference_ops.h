// Ops in plain float64 loops: slow, obviously right, the judge of all others.
#pragma once

#include <memory>

#include "ops/ops.h"

namespace calotype {

std::unique_ptr<Ops> make_reference_ops(int threads);

}  // namespace calotype
