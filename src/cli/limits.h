// What this machine can do at most, measured: the yardstick of `calotype bench`.
#pragma once

namespace calotype::cli {

struct MachineLimits {
  double flop_per_s = 0;   // float32 fused multiply-adds from registers, two FLOP each
  double bytes_per_s = 0;  // of a copy in memory, read and written bytes counted
};

// Takes about half a second and half a GiB.
MachineLimits measure_limits(int threads);

}  // namespace calotype::cli
