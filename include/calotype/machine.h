// What this build finds on the machine it runs on.
#pragma once

#include <string>
#include <vector>

#include "calotype/export.h"

namespace calotype {

// What RunOptions::threads 0 stands for: as many as the process may use (affinity mask, cgroup).
CALOTYPE_API int default_threads();

// Instruction sets that this build and this machine have, best first: "avx512", "avx2", …
CALOTYPE_API std::vector<std::string> cpu_simd_targets();

// The one that the CPU backend takes: the best, or what the environment variable CALOTYPE_SIMD
// says. Throws Error(kInvalidArgument) for a name it does not know, Error(kUnsupported) for one
// that the machine lacks.
CALOTYPE_API std::string cpu_simd_target();

}  // namespace calotype
