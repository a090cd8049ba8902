#include "cli/limits.h"

#include <algorithm>
#include <barrier>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "cli/report.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cli/limits.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h, which compiles this file once a target.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace calotype::cli::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Fused multiply-adds from registers; returns how many FLOP that were. A sum keeps the compiler
// from dropping them.
double multiply_add(int64_t rounds, float* sum) {
  // An FMA has a latency of 4 or 5 cycles and two ports: 8 to 10 independent sums keep both busy.
  // 12 and two operands fit the 16 registers of AVX2.
  const hn::ScalableTag<float> tag;
  const auto a = hn::Set(tag, 0.999F), b = hn::Set(tag, 0.001F);
  auto s0 = hn::Set(tag, 0.0F), s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0,
       s8 = s0, s9 = s0, s10 = s0, s11 = s0;
  for (int64_t i = 0; i < rounds; ++i) {
    s0 = hn::MulAdd(s0, a, b);
    s1 = hn::MulAdd(s1, a, b);
    s2 = hn::MulAdd(s2, a, b);
    s3 = hn::MulAdd(s3, a, b);
    s4 = hn::MulAdd(s4, a, b);
    s5 = hn::MulAdd(s5, a, b);
    s6 = hn::MulAdd(s6, a, b);
    s7 = hn::MulAdd(s7, a, b);
    s8 = hn::MulAdd(s8, a, b);
    s9 = hn::MulAdd(s9, a, b);
    s10 = hn::MulAdd(s10, a, b);
    s11 = hn::MulAdd(s11, a, b);
  }
  const auto low = hn::Add(hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)), hn::Add(s4, s5));
  const auto high = hn::Add(hn::Add(hn::Add(s6, s7), hn::Add(s8, s9)), hn::Add(s10, s11));
  *sum = hn::GetLane(hn::SumOfLanes(tag, hn::Add(low, high)));
  return static_cast<double>(rounds) * 12 * 2 * static_cast<double>(hn::Lanes(tag));
}

}  // namespace calotype::cli::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace calotype::cli {
namespace {

HWY_EXPORT(multiply_add);

// Seconds that `work(thread)` takes on all threads at once.
double time_together(int threads, const std::function<void(int)>& work) {
  std::barrier start(threads + 1), end(threads + 1);
  std::vector<std::jthread> pool;
  pool.reserve(static_cast<size_t>(threads));
  for (int t = 0; t < threads; ++t) {
    pool.emplace_back([&, t] {
      start.arrive_and_wait();
      work(t);
      end.arrive_and_wait();
    });
  }
  start.arrive_and_wait();
  const Stopwatch watch;
  end.arrive_and_wait();
  return watch.seconds();
}

double measure_flop(int threads) {
  constexpr int64_t kRounds = 12'000'000;  // 72 M cycles of two ports: 20 to 40 ms
  constexpr int kTimes = 4;
  std::vector<float> sums(static_cast<size_t>(threads) * 16);  // a cache line each
  std::vector<double> flop(static_cast<size_t>(threads) * 8);
  double best = 0;
  for (int i = 0; i < kTimes; ++i) {
    const double seconds = time_together(threads, [&](int t) {
      const auto at = static_cast<size_t>(t);
      flop[at * 8] = HWY_DYNAMIC_DISPATCH(multiply_add)(kRounds, &sums[at * 16]);
    });
    best = std::max(best, flop[0] * threads / seconds);
  }
  return best;
}

double measure_bytes(int threads) {
  constexpr size_t kBytes = size_t{256} << 20;  // beyond the last-level cache
  constexpr int kTimes = 4;
  const auto from = std::make_unique<char[]>(kBytes);
  const auto to = std::make_unique<char[]>(kBytes);
  const size_t share = kBytes / static_cast<size_t>(threads);
  double best = 0;
  for (int i = 0; i < kTimes; ++i) {
    const double seconds = time_together(threads, [&](int t) {
      const size_t first = share * static_cast<size_t>(t);
      std::memcpy(to.get() + first, from.get() + first, share);
    });
    best = std::max(best, 2.0 * static_cast<double>(share) * threads / seconds);
  }
  return best;
}

}  // namespace

MachineLimits measure_limits(int threads) {
  return {.flop_per_s = measure_flop(threads), .bytes_per_s = measure_bytes(threads)};
}

}  // namespace calotype::cli
#endif  // HWY_ONCE
