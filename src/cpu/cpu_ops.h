// Ops on the CPU: float32, SIMD chosen at run time, all cores.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "calotype/autoencoder_kl.h"
#include "calotype/machine.h"
#include "ops/ops.h"

namespace calotype {

// `threads` 0: as many as the process may use. Throws Error(kUnsupported) where the machine lacks
// what `precision` or the environment variable CALOTYPE_SIMD asks for, Error(kInvalidArgument) for
// a name it does not know.
std::unique_ptr<Ops> make_cpu_ops(Precision precision, int threads);

// With emulated tiles of AMX beside the chosen instruction set, for tests.
std::unique_ptr<Ops> make_emulated_amx_ops(Precision precision, int threads);

}  // namespace calotype
