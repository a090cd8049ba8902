// One of the machine's limits alone; see measure_limits() in calotype/machine.h.
#pragma once

namespace calotype {

// Float32 multiply-adds from registers, 2 FLOP each, on as many of `threads` as have a core: about
// 30 ms.
double measure_flop_per_second(int threads);

}  // namespace calotype
