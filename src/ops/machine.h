// What this machine has, for planning.
#pragma once

#include <cstdint>

namespace calotype {

// Bytes that the machine, and the cgroup of this process, can still give.
int64_t available_memory();

}  // namespace calotype
