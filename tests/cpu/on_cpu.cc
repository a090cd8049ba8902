#include "cpu/on_cpu.h"

#include <cmath>
#include <cstdlib>

namespace calotype::test {
namespace {

// Sets CALOTYPE_SIMD while it lives.
class ForcedSimd {
 public:
  explicit ForcedSimd(const std::string& name) { setenv("CALOTYPE_SIMD", name.c_str(), 1); }
  ~ForcedSimd() { unsetenv("CALOTYPE_SIMD"); }
};

}  // namespace

std::unique_ptr<Ops> cpu_ops(const std::string& simd, int threads, Precision precision) {
  const ForcedSimd forced(simd);
  return make_cpu_ops(precision, threads);
}

void expect_same_stats(const LayerResult& result, const LayerResult& truth) {
  ASSERT_EQ(result.stats.size(), truth.stats.size());
  for (size_t i = 0; i < truth.stats.size(); i++) {
    const GroupStats &a = result.stats[i], &b = truth.stats[i];
    EXPECT_EQ(a.count, b.count) << "group " << i;
    const double deviation = std::sqrt(b.m2 / b.count);
    EXPECT_NEAR(a.mean, b.mean, 1e-5 * (deviation + std::abs(b.mean))) << "group " << i;
    EXPECT_NEAR(a.m2, b.m2, 1e-4 * b.m2 + 1e-9) << "group " << i;
  }
}

std::unique_ptr<Ops> emulated_amx_ops(const std::string& simd, Precision precision) {
  const ForcedSimd forced(simd);
  return make_emulated_amx_ops(precision, 2);
}

int some_groups(int64_t channels, Random& random) {
  std::vector<int> divisors;
  for (int g = 1; g <= channels; g++) {
    if (channels % g == 0) divisors.push_back(g);
  }
  return random.pick(divisors);
}

ConvSpec random_conv(Random& random) {
  const std::vector<int64_t> channels = {1, 2, 3, 4, 6, 8, 12, 16, 20, 32, 36, 48, 64, 96};
  const std::vector<int64_t> sizes = {1, 2, 3, 5, 7, 8, 13, 20, 33, 51};
  ConvSpec s;
  s.batch = random.integer(1, 2);
  s.h = random.pick(sizes);
  s.w = random.pick(sizes);
  s.in = random.pick(channels);
  s.out = random.pick(channels);
  s.kernel = random.integer(0, 3) == 0 ? 1 : 3;
  const int64_t kind = random.integer(0, 4);
  if (kind == 3 && s.kernel == 3) s.sampling = Sampling::kUpsample;
  if (kind == 4 && s.kernel == 3 && s.h > 1 && s.w > 1) s.sampling = Sampling::kDownsample;
  if (random.integer(0, 2) > 0) s.groups = some_groups(s.in, random);
  s.residual = random.integer(0, 1) == 1;
  s.out_groups = some_groups(s.out, random);
  s.dtype = random.pick(std::vector<DType>{DType::kF32, DType::kBF16, DType::kF16});
  return s;
}

AttentionSpec random_attention(Random& random) {
  AttentionSpec s;
  s.batch = random.integer(1, 2);
  s.h = random.pick(std::vector<int64_t>{1, 3, 8, 17, 33});
  s.w = random.pick(std::vector<int64_t>{1, 2, 5, 16, 31});
  s.channels = random.pick(std::vector<int64_t>{1, 4, 12, 16, 36, 64, 160});
  s.groups = some_groups(s.channels, random);
  if (s.h * s.w == 1) s.groups = 1;
  s.out_groups = some_groups(s.channels, random);
  s.gain = random.pick(std::vector<double>{1, 10});
  return s;
}

}  // namespace calotype::test
