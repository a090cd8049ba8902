// Jobs that run at once share one budget.
#include "model/ledger.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

#include "calotype/autoencoder_kl.h"
#include "support/random.h"
#include "support/random_vae.h"

namespace calotype::test {
namespace {

const auto kNever = [] {};

TEST(MemoryLedger, never_gives_more_than_the_budget_to_those_that_run_at_once) {
  constexpr int64_t kBudget = 100;
  MemoryLedger ledger;
  std::atomic<int64_t> held = 0, most = 0, jobs = 0;
  const auto work = [&](uint64_t seed) {
    Random random(seed);
    for (int i = 0; i < 50; i++) {
      const int64_t least = random.integer(1, 60), wanted = least + random.integer(0, 60);
      const auto reservation = ledger.reserve(
          kBudget,
          [&](int64_t left) -> std::optional<int64_t> {
            EXPECT_LE(left, kBudget);
            if (left < least) return {};
            return std::min(left, wanted);
          },
          kNever);
      EXPECT_GE(reservation.bytes(), least);
      most = std::max(most.load(), held += reservation.bytes());
      jobs++;
      std::this_thread::sleep_for(std::chrono::microseconds(random.integer(0, 300)));
      held -= reservation.bytes();
    }
  };
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 4; t++) threads.emplace_back(work, test_seed(1) + t);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(jobs, 200);
  EXPECT_LE(most, kBudget);
}

TEST(MemoryLedger, lets_a_job_inside_another_of_its_thread_go_on) {
  MemoryLedger ledger;
  const auto all = [](int64_t left) { return std::optional<int64_t>(left); };
  const auto outer = ledger.reserve(10, all, kNever);
  const auto inner = ledger.reserve(10, all, kNever);
  EXPECT_EQ(inner.bytes(), 10);
}

TEST(MemoryLedger, lets_a_callback_of_planning_start_a_job) {
  MemoryLedger ledger;
  const auto all = [](int64_t left) { return std::optional<int64_t>(left); };
  int64_t inner = 0;
  const auto outer = ledger.reserve(
      10,
      [&](int64_t left) {
        inner = ledger.reserve(10, all, kNever).bytes();
        return std::optional<int64_t>(left);
      },
      kNever);
  EXPECT_EQ(inner, 10);
  EXPECT_EQ(outer.bytes(), 10);
}

TEST(MemoryLedger, lets_a_job_that_waits_be_cancelled) {
  MemoryLedger ledger;
  const auto holder = ledger.reserve(
      10, [](int64_t left) { return std::optional(left); }, kNever);
  std::thread([&] {
    EXPECT_THROW(ledger.reserve(
                     10, [](int64_t left) { return std::optional(left); },
                     [] { throw Error(ErrorCode::kCancelled, "enough"); }),
                 Error);
  }).join();
}

TEST(Jobs, at_once_in_the_smallest_budget_give_the_same_pictures) {
  Random random(test_seed(2));
  const AutoencoderKL vae(random_model(small_config(), 1));
  RunOptions options;
  options.backend = Backend::kCpu;
  options.threads = 1;
  options.memory = vae.plan_decode(1, 160, 96, options).minimum_bytes;
  const int64_t factor = vae.config().spatial_factor();
  const Tensor latents =
      random.normal_tensor({1, 160 / factor, 96 / factor, vae.config().channels()});
  const Tensor alone = vae.decode(latents, options);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; t++) {
    threads.emplace_back([&] {
      for (int i = 0; i < 3; i++) {
        const Tensor picture = vae.decode(latents, options);
        EXPECT_EQ(std::memcmp(picture.data(), alone.data(), static_cast<size_t>(alone.size()) * 4),
                  0);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(Jobs, count_what_their_caller_holds) {
  const AutoencoderKL vae(model_of_zeros(small_config()));
  RunOptions options;
  options.backend = Backend::kCpu;
  const Plan without = vae.plan_encode(1, 64, 64, options);
  options.held_bytes = 12345;
  const Plan with = vae.plan_encode(1, 64, 64, options);
  EXPECT_EQ(with.planned_peak_bytes, without.planned_peak_bytes + 12345);
  EXPECT_EQ(with.minimum_bytes, without.minimum_bytes + 12345);
}

}  // namespace
}  // namespace calotype::test
