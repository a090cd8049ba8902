// Worker threads of the whole process, shared by all that computes at the same time.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <list>
#include <mutex>

namespace calotype::cpu {

// As many as the process may use: the affinity mask, bounded by the cgroup's CPU quota.
int available_threads();

class ThreadPool {
 public:
  // `slot` is below the number of threads; no two calls that run at the same time have the same,
  // and 0 is the calling thread's.
  using Body = std::function<void(int64_t index, int slot)>;
  using Tick = std::function<void(int64_t done)>;

  static ThreadPool& shared();

  // Calls body(i, slot) once for each i in [0, count) on at most `threads` threads, the caller
  // among them; lower indices start first. Calls `tick` from the calling thread, at least every
  // kTickMilliseconds while others work, and when all is done. What body or tick throws first stops
  // the loop, and is thrown once all have stopped.
  //
  // Workers never make more threads busy than the machine has (or than the greediest caller asked
  // for), whatever the number of loops under way: a loop then goes on with fewer.
  void parallel_for(int threads, int64_t count, const Body& body, const Tick& tick = {});

 private:
  static constexpr int kTickMilliseconds = 20;

  struct Loop;
  ThreadPool() = default;
  void start_workers(int wanted);
  void work();
  Loop* loop_in_need();
  void take_part(Loop& loop, std::unique_lock<std::mutex>& lock, int slot, bool caller);

  std::mutex mutex_;
  std::condition_variable news_;  // a loop was begun, or a busy thread became free
  std::list<Loop*> loops_;        // the oldest first
  int workers_ = 0;
  int busy_ = 0;   // threads in a body, callers included
  int limit_ = 0;  // busy threads that workers may bring about
};

}  // namespace calotype::cpu
