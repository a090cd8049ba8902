#include "ops/machine.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>

namespace calotype {
namespace {

namespace fs = std::filesystem;

// The number in a one-line file, or `otherwise` ("max" and absent files too).
int64_t number_in(const std::string& path, int64_t otherwise) {
  std::ifstream file(path);
  int64_t value = 0;
  return file >> value ? value : otherwise;
}

// Of "key number" lines; 0 where there is no such key.
int64_t entry_of(const std::string& path, const std::string& wanted) {
  std::ifstream file(path);
  std::string key;
  for (int64_t value = 0; file >> key >> value;) {
    if (key == wanted) return value;
  }
  return 0;
}

int64_t meminfo_available() {
  std::ifstream file("/proc/meminfo");
  std::string key, unit;
  int64_t kilobytes = 0;
  while (file >> key >> kilobytes) {
    std::getline(file, unit);
    if (key == "MemAvailable:") return kilobytes * 1024;
  }
  return std::numeric_limits<int64_t>::max();
}

// What is left of the limits of this process's cgroup and of those above it (version 2, then 1).
int64_t cgroup_available() {
  constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
  int64_t left = kNone;
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool unified = controllers.empty();
    if (!unified && controllers.find("memory") == std::string::npos) continue;
    const fs::path root = unified ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory";
    for (fs::path group = line.substr(second + 1);; group = group.parent_path()) {
      const std::string folder = root.string() + group.string();
      const int64_t limit =
          number_in(folder + (unified ? "/memory.max" : "/memory.limit_in_bytes"), kNone);
      const int64_t used =
          number_in(folder + (unified ? "/memory.current" : "/memory.usage_in_bytes"), 0);
      // Page cache that nobody uses is given back before anything is refused.
      const int64_t cached = std::min(
          used,
          entry_of(folder + "/memory.stat", unified ? "inactive_file" : "total_inactive_file"));
      if (limit < kNone) left = std::min(left, std::max<int64_t>(0, limit - used + cached));
      if (group == group.parent_path() || group.empty()) break;
    }
  }
  return left;
}

}  // namespace

int64_t available_memory() { return std::min(meminfo_available(), cgroup_available()); }

}  // namespace calotype
