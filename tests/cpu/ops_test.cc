// The CPU backend against the float64 reference, operation by operation, on every instruction set
// that this machine has.
#include <gtest/gtest.h>

#include <cmath>

#include "cpu/cpu_ops.h"
#include "cpu/on_cpu.h"
#include "reference/reference_ops.h"
#include "support/compare.h"

namespace calotype::test {
namespace {

constexpr double kBound = 1e-5;  // relative RMS

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

TEST(CpuConv, gives_the_same_bytes_for_any_threads_batch_and_split) {
  const uint64_t seed = test_seed(8);
  Random random(seed);
  for (uint64_t i = 0; i < 40; i++) {
    ConvSpec s = random_conv(random);
    s.batch = random.integer(1, 3);
    s.h = random.integer(1, 90);
    if (s.sampling == Sampling::kDownsample) s.h = std::max<int64_t>(s.h, 2);
    expect_same_bytes(s, seed + i, cpu_simd_targets());
  }
}

TEST(CpuAttention, gives_the_same_bytes_for_any_threads_and_batch) {
  const uint64_t seed = test_seed(9);
  Random random(seed);
  for (uint64_t i = 0; i < 10; i++)
    expect_same_bytes(random_attention(random), seed + i, cpu_simd_targets());
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
