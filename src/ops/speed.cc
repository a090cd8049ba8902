#include "ops/speed.h"

#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "calotype/machine.h"
#include "core/cat.h"
#include "core/file.h"
#include "ops/row_memory.h"
#include "ops/scratch.h"

namespace calotype {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// CPU time of all threads: what other processes take does not make this one look slow.
double cpu_seconds() {
  timespec t = {};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// One layer of a network: a convolution with norm and residual, of the widest activations.
class Probe {
 public:
  explicit Probe(Ops& ops)
      : ops_(ops),
        parallel_(std::clamp(ops.threads(), 1, default_threads())),
        weights_(static_cast<size_t>(kWidth * kWidth * 9), 0.01F),
        ones_(kWidth, 1.0F) {
    const auto view = [](const std::vector<float>& values, Shape shape) {
      return TensorView{DType::kF32, std::move(shape),
                        reinterpret_cast<const std::byte*>(values.data())};
    };
    const Conv2d conv = {view(weights_, {kWidth, kWidth, 3, 3}), view(ones_, {kWidth}), kWidth,
                         kWidth, 3};
    const GroupNorm norm = {view(ones_, {kWidth}), view(ones_, {kWidth})};
    const Activation first = graph_.conv("first", graph_.input(), conv);
    graph_.conv("probe", first, conv, {.norm = &norm, .residual = &first});
    element_ = byte_count(ops.element(), {1});
    const int64_t bytes = kRows * kColumns * kWidth * element_;
    x_ = AddressRange(bytes, bytes);
    y_ = AddressRange(bytes, bytes);
    prepared_bytes_ = ops.prepared_bytes(graph_, node());
    prepared_ = AddressRange(std::max<int64_t>(prepared_bytes_, 1), prepared_bytes_ + 1);
  }

  double prepared_per_second() {
    if (prepared_bytes_ == 0) return MachineSpeed().prepared_per_second;
    ops_.prepare(graph_, node(), prepared_.data(), [](double) {});  // its pages come
    const double seconds =
        time([&] { ops_.prepare(graph_, node(), prepared_.data(), [](double) {}); });
    return static_cast<double>(prepared_bytes_) / seconds;
  }

  double flop_per_second() {
    const auto& conv = std::get<ConvNode>(node());
    const Extent extent = {kRows, kColumns, kWidth};
    Rows x, y;
    x.data = x_.data();
    y.data = y_.data();
    x.rows = y.rows = kRows;
    x.picture_stride = y.picture_stride = kRows * kColumns * kWidth;
    x.extent = y.extent = extent;
    const std::vector<GroupStats> stats(32, {1000, 0, 1000});
    ConvCall call;
    call.node = &conv;
    call.x = x;
    call.residual = x;
    call.y = y;
    call.x_stats = stats;
    call.prepared = prepared_.data();
    const double seconds = time([&] { ops_.conv(call, [](double) {}); });
    return ops_.flop_executed(graph_, node()) / seconds;
  }

  double memory_per_second() {
    const auto bytes = static_cast<size_t>(kRows * kColumns * kWidth * element_);
    // On one core; two or three of them take all that a memory gives.
    const double seconds = time([&] { std::memcpy(y_.data(), x_.data(), bytes); }, 1);
    return 2 * static_cast<double>(bytes) * std::min(parallel_, 2) / seconds;
  }

 private:
  static constexpr int64_t kRows = 48, kColumns = 52, kWidth = 128;
  static constexpr double kSeconds = 0.03;

  const Node& node() const { return graph_.nodes().back(); }

  // Seconds that `work` takes where no other process is.
  template <class Work>
  double time(const Work& work, int cores) const {
    const double start = cpu_seconds();
    const Clock::time_point wall = Clock::now();
    int times = 0;
    double best = 1e9;
    do {
      const double before = cpu_seconds();
      work();
      best = std::min(best, cpu_seconds() - before);
      times++;
    } while (times < 2 || (cpu_seconds() - start < kSeconds && seconds_since(wall) < 2 * kSeconds));
    return std::max(best / cores, 1e-9);
  }
  template <class Work>
  double time(const Work& work) const {
    return time(work, parallel_);
  }

  Ops& ops_;
  const int parallel_;
  const std::vector<float> weights_, ones_;
  Graph graph_{{kRows, kColumns, kWidth}};
  int64_t element_ = 4, prepared_bytes_ = 0;
  AddressRange x_, y_, prepared_;
};

double measure_disk(const std::string& folder) {
  constexpr int64_t kPart = int64_t{2} << 20, kParts = 16;
  constexpr double kSeconds = 0.08;  // each way
  const AddressRange memory(kPart, kPart);
  std::fill(memory.data(), memory.data() + kPart, std::byte{0x5A});
  Scratch scratch(folder, kPart * kParts);
  const Clock::time_point start = Clock::now();
  int64_t parts = 0;
  for (; parts < kParts && seconds_since(start) < kSeconds; parts++)
    scratch.await(scratch.write(parts * kPart, memory.data(), kPart));
  for (int64_t part = 0; part < parts; part++)
    scratch.await(scratch.read(part * kPart, memory.data(), kPart));
  return 2 * static_cast<double>(parts * kPart) / std::max(seconds_since(start), 1e-6);
}

fs::path cache_file(const std::string& key) {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  if (cache != nullptr && *cache != '\0') return fs::path(cache) / "calotype" / key;
  if (home != nullptr && *home != '\0') return fs::path(home) / ".cache" / "calotype" / key;
  return {};
}

// Absent, or not what this program writes: measured again.
bool read_cache(const fs::path& file, MachineSpeed& speed) {
  std::ifstream in(file);
  MachineSpeed found;
  if (!(in >> found.flop_per_second >> found.prepared_per_second >> found.memory_per_second >>
        found.disk_per_second)) {
    return false;
  }
  for (const double rate : {found.flop_per_second, found.prepared_per_second,
                            found.memory_per_second, found.disk_per_second}) {
    if (!(rate > 1e4 && rate < 1e16)) return false;
  }
  speed = found;
  return true;
}

MachineSpeed measure(Ops& ops, const std::string& folder) {
  MachineSpeed speed;
  Probe probe(ops);
  speed.prepared_per_second = probe.prepared_per_second();
  speed.flop_per_second = probe.flop_per_second();
  speed.memory_per_second = probe.memory_per_second();
  ops.fit_workspace({});
  if (is_memory_backed(folder)) return speed;
  try {
    speed.disk_per_second = measure_disk(folder);
  } catch (const Error&) {
    // Whoever spills there will say what is wrong with it.
  }
  return speed;
}

}  // namespace

MachineSpeed machine_speed(Ops& ops, const std::string& folder) {
  struct stat info = {};
  const bool there = ::stat(folder.c_str(), &info) == 0;
  const std::string key = cat("speed-", there ? info.st_dev : 0, "-", ops.name());
  static std::mutex mutex;
  static std::map<std::string, MachineSpeed> known;
  const std::lock_guard lock(mutex);
  if (const auto found = known.find(key); found != known.end()) return found->second;
  MachineSpeed speed;
  const fs::path file = cache_file(key);
  if (!read_cache(file, speed)) {
    speed = measure(ops, folder);
    try {
      if (!file.empty()) {
        fs::create_directories(file.parent_path());
        write_file(file.string(), cat(speed.flop_per_second, " ", speed.prepared_per_second, " ",
                                      speed.memory_per_second, " ", speed.disk_per_second, "\n"));
      }
    } catch (const std::exception&) {
      // A cache that cannot be written costs another measurement, nothing else.
    }
  }
  return known[key] = speed;
}

}  // namespace calotype
