#include "cpu/limits.h"

#include <algorithm>
#include <chrono>
#include <ctime>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/limits.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.
#include "calotype/machine.h"
#include "cpu/thread_pool.h"
#include "cpu/vector-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace calotype::cpu {
namespace HWY_NAMESPACE {

// 12 chains: enough for two FMA units of 4 or 5 cycles of latency. Returns the FLOP.
double MultiplyAdd(int64_t rounds) {
  constexpr int kChains = 12;
  V acc[kChains];
#pragma GCC unroll 12
  for (int i = 0; i < kChains; i++) acc[i] = hn::Set(d, 1.0f + 0.001f * static_cast<float>(i));
  const V factor = hn::Set(d, 0.999f), term = hn::Set(d, 0.001f);
  for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; i++) accumulate(acc[i], factor, term);
  }
  V total = hn::Zero(d);
#pragma GCC unroll 12
  for (int i = 0; i < kChains; i++) total = hn::Add(total, acc[i]);
  HWY_ALIGN float lanes[16];
  hn::Store(total, d, lanes);
  volatile float keep = lanes[0];
  (void)keep;
  return 2.0 * static_cast<double>(rounds) * kChains * static_cast<double>(kLanes);
}

float SumFloats(const float* values, int64_t count) {
  V sums[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  for (int64_t i = 0; i + 4 * kLanes <= count; i += 4 * kLanes) {
    for (int j = 0; j < 4; j++) {
      sums[j] = hn::Add(sums[j], hn::LoadU(d, values + i + j * kLanes));
    }
  }
  HWY_ALIGN float lanes[16];
  hn::Store(hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3])), d, lanes);
  return lanes[0];
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace calotype::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace calotype {
namespace cpu {

CALOTYPE_EXPORT(MultiplyAdd);
CALOTYPE_EXPORT(SumFloats);

namespace {

double thread_seconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

void on_threads(int threads, const std::function<void(int)>& body) {
  std::vector<std::jthread> others;  // joined however this ends
  for (int t = 1; t < threads; t++) others.emplace_back(body, t);
  body(0);
}

}  // namespace
}  // namespace cpu

double measure_flop_per_second(int threads) {
  using namespace cpu;
  const auto run = CALOTYPE_DISPATCH(MultiplyAdd, chosen_simd());
  double total = 0;
  std::mutex mutex;
  on_threads(threads, [&](int) {
    run(10000);
    const double start = thread_seconds();
    const double flop = run(3000000);
    const double rate = flop / (thread_seconds() - start);
    const std::lock_guard lock(mutex);
    total += rate;
  });
  // Threads that share a core share its rate.
  return total * std::min(1.0, static_cast<double>(available_threads()) / threads);
}

MachineLimits measure_limits(int threads) {
  using namespace cpu;
  MachineLimits limits;
  limits.flop_per_second = measure_flop_per_second(threads);
  constexpr int64_t kFloats = int64_t{64} << 20;  // 256 MiB
  Buffer buffer;
  float* values = buffer.reserve(kFloats);
  const auto sum = CALOTYPE_DISPATCH(SumFloats, chosen_simd());
  const auto part = [&](int t) { return kFloats * t / threads; };
  on_threads(threads, [&](int t) { std::fill(values + part(t), values + part(t + 1), 1.0f); });
  for (int i = 0; i < 3; i++) {
    const auto start = std::chrono::steady_clock::now();
    on_threads(threads, [&](int t) {
      volatile float keep = sum(values + part(t), part(t + 1) - part(t));
      (void)keep;
    });
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    limits.bytes_per_second = std::max(limits.bytes_per_second, 4.0 * kFloats / took.count());
  }
  return limits;
}

}  // namespace calotype
#endif  // HWY_ONCE
