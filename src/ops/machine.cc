#include "ops/machine.h"

#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>

#include "core/cat.h"
#include "core/file.h"
#include "ops/row_memory.h"
#include "ops/scratch.h"

namespace calotype {
namespace {

namespace fs = std::filesystem;

// The number in a one-line file, or `otherwise` ("max" and absent files too).
int64_t number_in(const std::string& path, int64_t otherwise) {
  std::ifstream file(path);
  int64_t value = 0;
  return file >> value ? value : otherwise;
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
      if (limit < kNone) left = std::min(left, std::max<int64_t>(0, limit - used));
      if (group == group.parent_path() || group.empty()) break;
    }
  }
  return left;
}

fs::path cache_file(const std::string& folder) {
  struct stat info;
  if (::stat(folder.c_str(), &info) != 0) return {};
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  fs::path root;
  if (cache != nullptr && *cache != '\0') {
    root = cache;
  } else if (home != nullptr && *home != '\0') {
    root = fs::path(home) / ".cache";
  } else {
    return {};
  }
  return root / "calotype" / cat("disk-", info.st_dev);
}

double measure_disk(const std::string& folder) {
  constexpr int64_t kBytes = int64_t{32} << 20, kPart = int64_t{4} << 20;
  const AddressRange memory(kBytes, kBytes);
  std::fill(memory.data(), memory.data() + kBytes, std::byte{0x5A});
  Scratch scratch(folder, kBytes);
  const auto start = std::chrono::steady_clock::now();
  int64_t ticket = 0;
  for (int64_t at = 0; at < kBytes; at += kPart)
    ticket = scratch.write(at, memory.data() + at, kPart);
  for (int64_t at = 0; at < kBytes; at += kPart)
    ticket = scratch.read(at, memory.data() + at, kPart);
  scratch.await(ticket);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  return 2 * static_cast<double>(kBytes) / std::max(seconds.count(), 1e-6);
}

}  // namespace

int64_t available_memory() { return std::min(meminfo_available(), cgroup_available()); }

double disk_bytes_per_second(const std::string& folder) {
  const fs::path file = cache_file(folder);
  double speed = 0;
  if (std::ifstream(file) >> speed && speed > 1e5 && speed < 1e12) return speed;
  speed = measure_disk(folder);
  if (file.empty()) return speed;
  try {
    fs::create_directories(file.parent_path());
    write_file(file.string(), cat(speed, "\n"));
  } catch (const std::exception&) {
    // A cache that cannot be written costs another measurement, nothing else.
  }
  return speed;
}

}  // namespace calotype
