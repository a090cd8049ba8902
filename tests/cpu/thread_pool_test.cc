#include "cpu/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

namespace calotype::cpu {
namespace {

TEST(ThreadPool, calls_the_body_once_for_each_index) {
  for (const int threads : {1, 2, 7}) {
    std::vector<std::atomic<int>> calls(1000);
    ThreadPool::shared().parallel_for(threads, 1000, [&](int64_t i, int slot) {
      EXPECT_GE(slot, 0);
      EXPECT_LT(slot, threads);
      calls[static_cast<size_t>(i)]++;
    });
    for (const auto& count : calls) EXPECT_EQ(count, 1);
  }
}

TEST(ThreadPool, never_gives_a_slot_to_two_calls_at_once) {
  std::vector<std::atomic<int>> users(4);
  ThreadPool::shared().parallel_for(4, 400, [&](int64_t, int slot) {
    EXPECT_EQ(users[static_cast<size_t>(slot)]++, 0);
    std::this_thread::sleep_for(std::chrono::microseconds(50));
    users[static_cast<size_t>(slot)]--;
  });
}

TEST(ThreadPool, does_nothing_for_no_indices) {
  ThreadPool::shared().parallel_for(2, 0, [](int64_t, int) { FAIL(); });
}

TEST(ThreadPool, throws_what_a_body_throws_and_works_on) {
  for (const int64_t thrower : {0, 50, 99}) {
    EXPECT_THROW(ThreadPool::shared().parallel_for(3, 100,
                                                   [&](int64_t i, int) {
                                                     if (i == thrower) throw std::logic_error("x");
                                                   }),
                 std::logic_error);
  }
  std::atomic<int> calls{0};
  ThreadPool::shared().parallel_for(3, 10, [&](int64_t, int) { calls++; });
  EXPECT_EQ(calls, 10);
}

TEST(ThreadPool, ticks_from_the_calling_thread_and_stops_where_a_tick_throws) {
  const auto caller = std::this_thread::get_id();
  std::atomic<int> calls{0};
  EXPECT_THROW(ThreadPool::shared().parallel_for(
                   2, 100000,
                   [&](int64_t, int) {
                     calls++;
                     std::this_thread::sleep_for(std::chrono::microseconds(100));
                   },
                   [&](int64_t done) {
                     EXPECT_EQ(std::this_thread::get_id(), caller);
                     if (done >= 10) throw std::runtime_error("stop");
                   }),
               std::runtime_error);
  EXPECT_LT(calls, 1000);
}

TEST(ThreadPool, ticks_while_only_others_work) {
  const auto caller = std::this_thread::get_id();
  int ticks = 0;
  ThreadPool::shared().parallel_for(
      2, 2,
      [&](int64_t, int) {
        if (std::this_thread::get_id() != caller) {
          std::this_thread::sleep_for(std::chrono::milliseconds(200));
        } else {
          std::this_thread::sleep_for(std::chrono::milliseconds(10));
        }
      },
      [&](int64_t) { ticks++; });
  EXPECT_GE(ticks, 4);
}

TEST(ThreadPool, keeps_no_more_threads_busy_than_the_machine_has) {
  const int limit = std::max(available_threads(), 7);  // of a test above
  std::atomic<int> busy{0}, most{0};
  const auto loop = [&] {
    ThreadPool::shared().parallel_for(limit, 200, [&](int64_t, int) {
      const int now = ++busy;
      int seen = most;
      while (now > seen && !most.compare_exchange_weak(seen, now)) {
      }
      std::this_thread::sleep_for(std::chrono::microseconds(200));
      --busy;
    });
  };
  std::vector<std::thread> callers;
  constexpr int kCallers = 3;
  for (int i = 0; i < kCallers; i++) callers.emplace_back(loop);
  for (std::thread& caller : callers) caller.join();
  // A caller that arrives is served at once; workers step back when they finish an index.
  EXPECT_LE(most, limit + kCallers);
}

}  // namespace
}  // namespace calotype::cpu
