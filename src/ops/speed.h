// How fast this machine is, measured: what the planner weighs its means by. It only chooses among
// them, and never changes a result.
#pragma once

#include <string>

#include "ops/ops.h"

namespace calotype {

struct MachineSpeed {
  double flop_per_second = 1e11;     // executed, of a Winograd layer with norm and residual
  double prepared_per_second = 4e9;  // bytes of weights that prepare() makes
  double memory_per_second = 1e10;   // bytes read and written by a copy
  double disk_per_second = 5e8;      // bytes, past the page cache
};

// Of `ops` and of the disk under `folder`, which is left out where it cannot be written or is
// memory itself. Measured once, in 0.3 s, 8 MiB and the scratch of the threads, then kept for the
// process and in the user's cache folder ($XDG_CACHE_HOME/calotype, else ~/.cache/calotype) by
// device, kernels and number of threads.
MachineSpeed machine_speed(Ops& ops, const std::string& folder);

}  // namespace calotype
