#include "model/ledger.h"

#include <chrono>

namespace calotype {
namespace {

constexpr std::chrono::milliseconds kPoll(50);

thread_local int jobs_of_thread = 0;

// While this thread reserves: callbacks of planning and waiting may start jobs of their own, which
// must not queue behind it.
class Reserving {
 public:
  Reserving() { jobs_of_thread++; }
  ~Reserving() { jobs_of_thread--; }
  Reserving(const Reserving&) = delete;
  Reserving& operator=(const Reserving&) = delete;
};

// A place in the queue, left however reserve() ends.
class Place {
 public:
  Place(std::list<int>& queue, std::condition_variable& changed)
      : queue_(queue), changed_(changed), at_(queue.insert(queue.end(), 0)) {}
  ~Place() {
    queue_.erase(at_);
    changed_.notify_all();
  }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;
  bool first() const { return at_ == queue_.begin(); }

 private:
  std::list<int>& queue_;
  std::condition_variable& changed_;
  const std::list<int>::iterator at_;
};

}  // namespace

MemoryLedger& MemoryLedger::shared() {
  static MemoryLedger ledger;
  return ledger;
}

MemoryLedger::Reservation MemoryLedger::reserve(int64_t budget, const Planner& plan,
                                                const std::function<void()>& poll) {
  std::unique_lock lock(mutex_);
  const auto without_lock = [&](const auto& work) {
    lock.unlock();
    try {
      work();
    } catch (...) {
      lock.lock();
      throw;
    }
    lock.lock();
  };
  const auto take = [&](int64_t bytes) {
    held_ += bytes;
    running_++;
    jobs_of_thread++;
    return bytes;
  };
  std::optional<int64_t> bytes;
  if (jobs_of_thread > 0) {
    without_lock([&] { bytes = plan(budget); });
    return {*this, take(bytes.value_or(budget))};
  }
  const Reserving reserving;
  const Place place(queue_, changed_);
  for (;;) {
    while (!place.first()) {
      changed_.wait_for(lock, kPoll);
      without_lock(poll);
    }
    // Nobody else reserves while this one is first, so what is held can only become less.
    const bool alone = running_ == 0;
    const int64_t left = alone ? budget : budget - held_, seen = running_;
    if (left > 0) without_lock([&] { bytes = plan(left); });
    if (bytes || alone) return {*this, take(bytes.value_or(budget))};
    while (running_ == seen) {
      changed_.wait_for(lock, kPoll);
      without_lock(poll);
    }
  }
}

int64_t MemoryLedger::common_budget(const std::function<int64_t()>& now) {
  const std::lock_guard lock(mutex_);
  if (running_ == 0 || common_ == 0) common_ = now();
  return common_;
}

void MemoryLedger::release(int64_t bytes) {
  const std::lock_guard lock(mutex_);
  held_ -= bytes;
  running_--;
  jobs_of_thread--;
  changed_.notify_all();
}

}  // namespace calotype
