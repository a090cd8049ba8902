// The memory of all jobs that run in this process at once.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <list>
#include <mutex>
#include <optional>

namespace calotype {

class MemoryLedger {
 public:
  // What a job holds, from its plan to its end.
  class Reservation {
   public:
    Reservation(MemoryLedger& ledger, int64_t bytes) : ledger_(ledger), bytes_(bytes) {}
    ~Reservation() { ledger_.release(bytes_); }
    Reservation(const Reservation&) = delete;
    Reservation& operator=(const Reservation&) = delete;
    int64_t bytes() const { return bytes_; }

   private:
    MemoryLedger& ledger_;
    const int64_t bytes_;
  };
  // Plans a job in `left` bytes and says how many it takes; nothing where they are too few.
  using Planner = std::function<std::optional<int64_t>(int64_t left)>;

  static MemoryLedger& shared();

  // Reserves what `plan` takes of `budget` less what other jobs hold. Where that is too little, it
  // waits for others to end, in the order of the calls, and calls `poll` meanwhile, which throws to
  // give up. A job that runs alone, or inside another one of its thread (which would wait for
  // itself), never waits: `plan` then has the whole budget, and must throw where that is too
  // little.
  Reservation reserve(int64_t budget, const Planner& plan, const std::function<void()>& poll);

  // A budget that was taken from what is free, while jobs already hold some of it: the one of the
  // first of them.
  int64_t common_budget(const std::function<int64_t()>& now);

 private:
  void release(int64_t bytes);

  std::mutex mutex_;
  std::condition_variable changed_;
  std::list<int> queue_;  // of those that plan or wait, the oldest first
  int64_t held_ = 0, common_ = 0;
  int running_ = 0;
};

}  // namespace calotype
