// What this machine has and how fast its disk is, for planning.
#pragma once

#include <cstdint>
#include <string>

namespace calotype {

// Bytes that the machine, and the cgroup of this process, can still give.
int64_t available_memory();

// Of the folder's disk, written and read past the page cache: measured once with 32 MiB and
// remembered in the user's cache folder
// ($XDG_CACHE_HOME/calotype, else ~/.cache/calotype), by device. It only weighs the means against
// each other, and never changes a result.
double disk_bytes_per_second(const std::string& folder);

}  // namespace calotype
