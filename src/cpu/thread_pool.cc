#include "cpu/thread_pool.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace calotype::cpu {
namespace {

// CPUs that the cgroup (v2, then v1) grants, rounded up; 0 where nothing is set.
int cgroup_cpus() {
  const auto cpus = [](double quota, double period) {
    return quota > 0 && period > 0 ? static_cast<int>(std::ceil(quota / period)) : 0;
  };
  double quota = 0, period = 0;
  if (std::ifstream v2("/sys/fs/cgroup/cpu.max"); v2 >> quota >> period) {
    return cpus(quota, period);
  }
  std::ifstream q("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), p("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  if (q >> quota && p >> period) return cpus(quota, period);
  return 0;
}

}  // namespace

int available_threads() {
  int count = static_cast<int>(std::thread::hardware_concurrency());
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) count = CPU_COUNT(&set);
  if (const int granted = cgroup_cpus(); granted > 0) count = std::min(count, granted);
  return std::max(count, 1);
}

// Lives on the caller's stack. All of it is guarded by the pool's mutex.
struct ThreadPool::Loop {
  const Body& body;
  const Tick& tick;
  int64_t count;
  std::vector<int> free_slots = {};
  int64_t next = 0;
  int64_t done = 0;
  int running = 0;
  std::exception_ptr error = {};
  std::condition_variable finished = {};

  bool wants_help() const { return error == nullptr && next < count && !free_slots.empty(); }
};

ThreadPool& ThreadPool::shared() {
  // Never destroyed: workers may outlive main's statics. A forked child has none of its parent's
  // threads, so it gets a pool of its own.
  static std::mutex mutex;
  static std::vector<std::pair<pid_t, ThreadPool*>>& pools =
      *std::make_unique<std::vector<std::pair<pid_t, ThreadPool*>>>().release();
  const std::lock_guard lock(mutex);
  const pid_t process = getpid();
  if (pools.empty() || pools.back().first != process) {
    pools.emplace_back(process, std::unique_ptr<ThreadPool>(new ThreadPool).release());
  }
  return *pools.back().second;
}

void ThreadPool::start_workers(int wanted) {
  for (; workers_ < wanted; workers_++) std::thread([this] { work(); }).detach();
}

ThreadPool::Loop* ThreadPool::loop_in_need() {
  if (busy_ >= limit_) return nullptr;
  const auto it =
      std::find_if(loops_.begin(), loops_.end(), [](Loop* l) { return l->wants_help(); });
  return it == loops_.end() ? nullptr : *it;
}

void ThreadPool::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    Loop* loop = nullptr;
    news_.wait(lock, [&] { return (loop = loop_in_need()) != nullptr; });
    const int slot = loop->free_slots.back();
    loop->free_slots.pop_back();
    take_part(*loop, lock, slot, false);
  }
}

void ThreadPool::take_part(Loop& loop, std::unique_lock<std::mutex>& lock, int slot, bool caller) {
  loop.running++;
  busy_++;
  while (loop.error == nullptr && loop.next < loop.count && (caller || busy_ <= limit_)) {
    const int64_t index = loop.next++;
    lock.unlock();
    std::exception_ptr error;
    try {
      loop.body(index, slot);
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    loop.done++;
    if (caller && error == nullptr && loop.tick) {
      const int64_t done = loop.done;
      lock.unlock();
      try {
        loop.tick(done);
      } catch (...) {
        error = std::current_exception();
      }
      lock.lock();
    }
    if (error != nullptr && loop.error == nullptr) loop.error = error;
  }
  busy_--;
  loop.running--;
  if (!caller) loop.free_slots.push_back(slot);
  if (loop.running == 0) loop.finished.notify_all();
  if (busy_ < limit_ && !loops_.empty()) news_.notify_one();
}

void ThreadPool::parallel_for(int threads, int64_t count, const Body& body, const Tick& tick) {
  if (count <= 0) return;
  threads = static_cast<int>(std::clamp<int64_t>(threads, 1, count));
  Loop loop{body, tick, count};
  // All slots but the caller's come back to it, and nothing may throw while workers know the loop.
  loop.free_slots.reserve(static_cast<size_t>(threads));
  for (int slot = threads - 1; slot > 0; slot--) loop.free_slots.push_back(slot);

  std::unique_lock lock(mutex_);
  static const int available = available_threads();
  limit_ = std::max({limit_, threads, available});
  start_workers(threads - 1);
  loops_.push_back(&loop);
  for (int i = 1; i < threads; i++) news_.notify_one();
  take_part(loop, lock, 0, true);
  // The caller's own part is over only when no index is left or something was thrown.
  while (loop.running > 0) {
    loop.finished.wait_for(lock, std::chrono::milliseconds(kTickMilliseconds));
    if (loop.running == 0 || loop.error != nullptr || !tick) continue;
    const int64_t done = loop.done;
    lock.unlock();
    std::exception_ptr error;
    try {
      tick(done);
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    if (error != nullptr && loop.error == nullptr) loop.error = error;
  }
  loops_.remove(&loop);
  lock.unlock();
  if (loop.error != nullptr) std::rethrow_exception(loop.error);
  if (tick) tick(count);
}

}  // namespace calotype::cpu
