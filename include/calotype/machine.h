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

// What the CPU can do at most, measured: the yardstick of `calotype bench`.
struct MachineLimits {
  double flop_per_second = 0;   // float32 multiply-adds from registers, all threads; 2 FLOP each
  double bytes_per_second = 0;  // reading memory far larger than the caches, all threads
};

// Takes about 0.2 s and 256 MiB. The arithmetic is timed in the threads' own CPU time, so that
// other processes on the machine do not make it look slower than it is.
CALOTYPE_API MachineLimits measure_limits(int threads);

}  // namespace calotype
