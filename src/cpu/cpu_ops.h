// Ops on the CPU: float32, SIMD chosen at run time, all cores.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "calotype/autoencoder_kl.h"
#include "ops/ops.h"

namespace calotype {

// `threads` 0: as many as the process may use. Throws Error(kUnsupported) where the machine lacks
// what `precision` or the environment variable CALOTYPE_SIMD asks for, Error(kInvalidArgument) for
// a name it does not know.
std::unique_ptr<Ops> make_cpu_ops(Precision precision, int threads);

// Instruction sets this build and this machine have, best first: "avx512", "avx2", … And the one
// that make_cpu_ops takes.
std::vector<std::string> cpu_simd_targets();
std::string cpu_simd_target();

int default_threads();

}  // namespace calotype
