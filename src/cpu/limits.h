// What the machine can do at most, measured: the yardsticks of the benchmarks.
#pragma once

namespace calotype {

struct CpuLimits {
  double flop_per_second = 0;   // float32 multiply-adds from registers, all threads; 2 FLOP each
  double bytes_per_second = 0;  // reading memory far larger than the caches, all threads
};

// Takes about 0.2 s. The arithmetic is timed in the threads' own CPU time, so that other processes
// on the machine do not make it look slower than it is.
CpuLimits measure_cpu_limits(int threads);
// The first of the two alone: about 30 ms.
double measure_flop_per_second(int threads);

}  // namespace calotype
