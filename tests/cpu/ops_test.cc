// The CPU backend against the float64 reference, operation by operation, on every instruction set
// that this machine has.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "cpu/bf16.h"
#include "cpu/cpu_ops.h"
#include "cpu/layer.h"
#include "reference/reference_ops.h"
#include "support/compare.h"

namespace calotype::test {
namespace {

constexpr double kBound = 1e-5;  // relative RMS

// Sets CALOTYPE_SIMD while it lives.
class ForcedSimd {
 public:
  explicit ForcedSimd(const std::string& name) { setenv("CALOTYPE_SIMD", name.c_str(), 1); }
  ~ForcedSimd() { unsetenv("CALOTYPE_SIMD"); }
};

std::unique_ptr<Ops> cpu_ops(const std::string& simd, int threads = 2,
                             Precision precision = Precision::kF32) {
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

template <class Spec>
void expect_like_reference(const Spec& spec, uint64_t seed, const LayerCall& call = {},
                           Precision precision = Precision::kF32, double bound = kBound) {
  Random random(seed);
  const Layer layer(spec, random);
  const LayerResult truth = layer.run(*make_reference_ops(2));
  for (const std::string& simd : cpu_simd_targets()) {
    SCOPED_TRACE(describe(spec) + ", " + simd + ", seed " + std::to_string(seed));
    const LayerResult result = layer.run(*cpu_ops(simd, 2, precision), call);
    EXPECT_LE(difference(std::span<const double>(result.y), truth.y).relative_rms, bound);
    expect_same_stats(result, truth);
  }
}

void expect_algorithm(const ConvSpec& spec, const std::string& name) {
  Random random(1);
  const Layer layer(spec, random);
  const std::string algorithm =
      make_cpu_ops(Precision::kF32, 2)->algorithm(layer.graph(), layer.node());
  EXPECT_TRUE(algorithm.starts_with(name)) << algorithm;
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

TEST(CpuOps, refuse_precisions_of_gpus) {
  for (const Precision precision : {Precision::kF16, Precision::kFP8}) {
    try {
      make_cpu_ops(precision, 1);
      ADD_FAILURE() << "the CPU has no such products";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    }
  }
}

TEST(CpuConv, equals_the_reference_on_random_shapes) {
  const uint64_t seed = test_seed(1);
  Random random(seed);
  for (uint64_t i = 0; i < 150; i++) expect_like_reference(random_conv(random), seed + i);
}

TEST(CpuConv, equals_the_reference_on_wide_layers) {
  const uint64_t seed = test_seed(2);
  for (const Sampling sampling : {Sampling::kSame, Sampling::kUpsample, Sampling::kDownsample}) {
    ConvSpec s;
    s.h = 19;
    s.w = 26;
    s.in = 128;
    s.out = sampling == Sampling::kDownsample ? 192 : 256;
    s.groups = 32;
    s.out_groups = 32;
    s.sampling = sampling;
    s.residual = sampling == Sampling::kSame;
    expect_algorithm(s, "winograd");
    expect_like_reference(s, seed);
  }
}

// A few pixels are not worth the transform of so many weights.
TEST(CpuConv, equals_the_reference_on_few_pixels_of_wide_layers) {
  const uint64_t seed = test_seed(17);
  for (const Sampling sampling : {Sampling::kSame, Sampling::kUpsample, Sampling::kDownsample}) {
    ConvSpec s;
    s.h = 5;
    s.w = 9;
    s.in = 320;
    s.out = 400;
    s.groups = 32;
    s.out_groups = 16;
    s.sampling = sampling;
    s.residual = sampling == Sampling::kSame;
    s.dtype = DType::kBF16;
    expect_algorithm(s, "direct");
    expect_like_reference(s, seed);
  }
}

TEST(CpuConv, keeps_its_precision_where_groups_have_a_large_mean) {
  for (const int64_t channels : {12, 64}) {
    ConvSpec s;
    s.h = 21;
    s.w = 30;
    s.in = s.out = channels;
    s.groups = s.out_groups = 4;
    s.mean = 1000;
    expect_like_reference(s, test_seed(3));
  }
}

TEST(CpuConv, has_no_nan_for_large_inputs) {
  ConvSpec s;
  s.in = s.out = 32;
  s.groups = 1;
  s.stddev = 1e18;
  expect_like_reference(s, test_seed(4));
  // Norms of single values, whose variance is 0.
  s.h = s.w = 1;
  s.groups = 32;
  s.stddev = 1e4;
  expect_like_reference(s, test_seed(4));
}

TEST(CpuConv, may_write_over_its_residual) {
  for (const int64_t channels : {6, 64}) {
    ConvSpec s;
    s.batch = 2;
    s.h = 37;
    s.w = 20;
    s.in = 16;
    s.out = channels;
    s.residual = true;
    LayerCall call;
    call.in_place = true;
    expect_like_reference(s, test_seed(5), call);
  }
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

TEST(CpuAttention, equals_the_reference_on_random_shapes) {
  const uint64_t seed = test_seed(6);
  Random random(seed);
  for (uint64_t i = 0; i < 40; i++) expect_like_reference(random_attention(random), seed + i);
}

TEST(CpuAttention, may_write_over_its_input) {
  AttentionSpec s;
  s.batch = 2;
  s.h = 23;
  s.w = 29;
  s.channels = 48;
  s.groups = 3;
  LayerCall call;
  call.in_place = true;
  expect_like_reference(s, test_seed(7), call);
}

TEST(CpuFast, keeps_four_times_the_error_on_random_shapes) {
  const uint64_t seed = test_seed(12);
  Random random(seed);
  for (uint64_t i = 0; i < 60; i++) {
    ConvSpec s = random_conv(random);
    s.in = 16 + 4 * random.integer(0, 20);
    s.out = 16 + 4 * random.integer(0, 20);
    s.groups = s.out_groups = 4;
    expect_like_reference(s, seed + i, {}, Precision::kFast, 4 * kBound);
  }
}

// bf16 has 8 bits: rounding x and w gives each product an error of 2^-9 or so.
constexpr double kBf16Bound = 6e-3;

ConvSpec bf16_conv(Random& random) {
  ConvSpec s = random_conv(random);
  s.in = 16 + 8 * random.integer(0, 6);
  s.out = 16 + 4 * random.integer(0, 12);
  s.w = random.pick(std::vector<int64_t>{1, 5, 33, 64, 70});
  s.groups = random.integer(0, 1) == 0 ? 0 : 4;
  s.out_groups = 4;
  return s;
}

TEST(CpuBf16, tiles_equal_the_reference_to_the_precision_of_bf16) {
  const uint64_t seed = test_seed(13);
  Random random(seed);
  const auto ops = make_emulated_amx_ops(Precision::kBF16, 2);
  for (uint64_t i = 0; i < 40; i++) {
    const ConvSpec s = bf16_conv(random);
    Random data(seed + i);
    const Layer layer(s, data);
    SCOPED_TRACE(describe(s) + ", seed " + std::to_string(seed + i));
    ASSERT_EQ(ops->algorithm(layer.graph(), layer.node()), "direct bf16");
    const LayerResult truth = layer.run(*make_reference_ops(2)), result = layer.run(*ops);
    const Difference error = difference(std::span<const double>(result.y), truth.y);
    EXPECT_LE(error.relative_rms, kBf16Bound);
    EXPECT_GE(error.relative_rms, kBf16Bound / 100) << "these were not bf16 products";
    for (size_t g = 0; g < truth.stats.size(); g++) {
      EXPECT_EQ(result.stats[g].count, truth.stats[g].count);
      EXPECT_NEAR(result.stats[g].m2, truth.stats[g].m2, 0.1 * truth.stats[g].m2 + 1e-6);
    }
  }
}

// Where the processor has them, the real tiles give what the emulated ones do; elsewhere bf16 is
// refused.
TEST(CpuBf16, runs_on_amx_or_is_refused) {
  if (!cpu::amx_usable()) {
    try {
      cpu_ops(cpu_simd_targets().front(), 2, Precision::kBF16);
      FAIL() << "bf16 without AMX";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
      EXPECT_NE(std::string(error.what()).find("AMX"), std::string::npos) << error.what();
    }
    return;
  }
  const uint64_t seed = test_seed(13);
  Random random(seed);
  const auto emulated = make_emulated_amx_ops(Precision::kBF16, 2);
  const auto real = cpu_ops(cpu_simd_targets().front(), 2, Precision::kBF16);
  for (uint64_t i = 0; i < 40; i++) {
    const ConvSpec s = bf16_conv(random);
    Random data(seed + i);
    const Layer layer(s, data);
    SCOPED_TRACE(describe(s) + ", seed " + std::to_string(seed + i));
    const LayerResult truth = layer.run(*emulated), result = layer.run(*real);
    EXPECT_LE(difference(std::span<const double>(result.y), truth.y).relative_rms, 1e-5);
  }
}

// The same bytes whatever the threads, the batch and the split of y into calls.
template <class Spec>
void expect_same_bytes(const Spec& spec, uint64_t seed) {
  Random random(seed);
  const Layer layer(spec, random);
  for (const std::string& simd : cpu_simd_targets()) {
    SCOPED_TRACE(describe(spec) + ", " + simd + ", seed " + std::to_string(seed));
    const LayerResult expected = layer.run(*cpu_ops(simd, 1));
    const auto expect_equal = [&](const LayerResult& result, int64_t first_picture) {
      const size_t offset =
          static_cast<size_t>(first_picture) * expected.y.size() / static_cast<size_t>(spec.batch);
      ASSERT_TRUE(std::equal(result.y.begin(), result.y.end(),
                             expected.y.begin() + static_cast<std::ptrdiff_t>(offset)));
      for (int64_t band = 0; band < result.bands.bands; band++) {
        for (int64_t i = 0; i < result.bands.batch * result.bands.groups; i++) {
          const auto index =
              static_cast<size_t>((band * spec.batch + first_picture) * result.bands.groups + i);
          const GroupStats& a =
              result.bands
                  .values[static_cast<size_t>(band * result.bands.batch * result.bands.groups + i)];
          const GroupStats& b = expected.bands.values[index];
          ASSERT_TRUE(a.count == b.count && a.mean == b.mean && a.m2 == b.m2) << "band " << band;
        }
      }
    };
    const int threads = static_cast<int>(random.integer(2, 7));
    SCOPED_TRACE(threads);
    auto ops = cpu_ops(simd, threads);
    expect_equal(layer.run(*ops), 0);
    for (int64_t picture = 0; picture < spec.batch; picture++) {
      LayerCall one;
      one.first_picture = picture;
      one.pictures = 1;
      one.calls = random.integer(1, 4);
      expect_equal(layer.run(*ops, one), picture);
    }
  }
}

TEST(CpuConv, gives_the_same_bytes_for_any_threads_batch_and_split) {
  const uint64_t seed = test_seed(8);
  Random random(seed);
  for (uint64_t i = 0; i < 40; i++) {
    ConvSpec s = random_conv(random);
    s.batch = random.integer(1, 3);
    s.h = random.integer(1, 90);
    if (s.sampling == Sampling::kDownsample) s.h = std::max<int64_t>(s.h, 2);
    expect_same_bytes(s, seed + i);
  }
}

TEST(CpuAttention, gives_the_same_bytes_for_any_threads_and_batch) {
  const uint64_t seed = test_seed(9);
  Random random(seed);
  for (uint64_t i = 0; i < 10; i++) expect_same_bytes(random_attention(random), seed + i);
}

TEST(CpuOps, stops_where_the_tick_throws) {
  Random random(test_seed(10));
  ConvSpec s;
  s.h = s.w = 64;
  s.in = s.out = 64;
  const Layer layer(s, random);
  for (const std::string& simd : cpu_simd_targets()) {
    for (const double at : {0.0, 0.5, 0.9}) {
      auto ops = cpu_ops(simd);
      LayerCall call;
      call.tick = [&](double fraction) {
        if (fraction >= at) throw std::runtime_error("stop");
      };
      EXPECT_THROW(layer.run(*ops, call), std::runtime_error);
      call.tick = [](double) {};
      EXPECT_NO_THROW(layer.run(*ops, call));
    }
  }
}

TEST(CpuOps, reports_rising_progress_of_each_call) {
  Random random(test_seed(11));
  ConvSpec s;
  s.h = s.w = 64;
  s.in = s.out = 64;
  const Layer layer(s, random);
  double last = 0;
  int ticks = 0;
  LayerCall call;
  call.tick = [&](double fraction) {
    EXPECT_GE(fraction, last);
    EXPECT_LE(fraction, 1.0 + 1e-9);
    last = fraction;
    ticks++;
  };
  layer.run(*cpu_ops(cpu_simd_targets().front(), 1), call);
  EXPECT_GT(ticks, 3);
  EXPECT_GT(last, 0.9);
}

TEST(CpuOps, refuses_an_instruction_set_it_does_not_know) {
  try {
    cpu_ops("mmx");
    FAIL() << "mmx was taken";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_NE(std::string(error.what()).find("mmx"), std::string::npos) << error.what();
  }
}

TEST(CpuOps, refuses_an_instruction_set_of_another_machine) {
#if defined(__x86_64__)
  const std::string other = "neon";
#else
  const std::string other = "avx2";
#endif
  try {
    cpu_ops(other);
    FAIL() << other << " was taken";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
  }
}

}  // namespace
}  // namespace calotype::test
