// Products by tiles of AMX: real ones where the processor has them, emulated ones everywhere.
#include "cpu/amx.h"

#include <gtest/gtest.h>

#include "cpu/on_cpu.h"
#include "reference/reference_ops.h"
#include "support/compare.h"

namespace calotype::test {
namespace {

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
  const auto ops = emulated_amx_ops(cpu_simd_targets().front(), Precision::kBF16);
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
  const auto emulated = emulated_amx_ops(cpu_simd_targets().front(), Precision::kBF16);
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

// Three bf16 are a float32: layers are as exact as with float32 units.
constexpr double kFloatBound = 1e-5;

ConvSpec split_conv(Random& random) {
  ConvSpec s = random_conv(random);
  s.in = random.pick(std::vector<int64_t>{32, 64});
  s.out = random.pick(std::vector<int64_t>{32, 64});
  if (s.kernel == 1) {
    s.in *= 4;
    s.groups = 0;
  } else {
    s.sampling = Sampling::kSame;
    s.groups = random.integer(0, 1) == 0 ? 0 : 8;
  }
  s.out_groups = 8;
  return s;
}

TEST(CpuSplit, emulated_tiles_equal_the_reference_to_the_precision_of_float32) {
  const uint64_t seed = test_seed(18);
  Random random(seed);
  const auto expect_equal = [&](const Layer& layer) {
    const LayerResult truth = layer.run(*make_reference_ops(2));
    for (const std::string& simd : cpu_simd_targets()) {
      SCOPED_TRACE(simd);
      const auto ops = emulated_amx_ops(simd);
      EXPECT_TRUE(ops->algorithm(layer.graph(), layer.node()).starts_with("amx"));
      const LayerResult result = layer.run(*ops);
      EXPECT_LE(difference(std::span<const double>(result.y), truth.y).relative_rms, kFloatBound);
      expect_same_stats(result, truth);
    }
  };
  for (uint64_t i = 0; i < 10; i++) {
    const ConvSpec s = split_conv(random);
    SCOPED_TRACE(describe(s) + ", seed " + std::to_string(seed + i));
    Random data(seed + i);
    expect_equal(Layer(s, data));
  }
  // Two blocks a job of two threads: one reads the other's pixels.
  ConvSpec several;
  several.h = 130;
  several.w = 121;
  several.in = several.out = 32;
  several.groups = several.out_groups = 8;
  Random values(seed);
  expect_equal(Layer(several, values));
  for (uint64_t i = 0; i < 10; i++) {
    AttentionSpec s = random_attention(random);
    s.channels = 32 * random.integer(1, 4);
    s.groups = s.out_groups = 8;
    SCOPED_TRACE(describe(s) + ", seed " + std::to_string(seed + i));
    Random data(seed + i);
    expect_equal(Layer(s, data));
  }
}

// The widest blocks, and the most to a job, which only large pictures have.
std::vector<ConvSpec> large_layers() {
  ConvSpec same, up, narrower, fewer;
  same.h = 203;
  same.w = 321;
  same.in = same.out = 128;
  same.groups = same.out_groups = 32;
  same.residual = true;
  up.h = 121;
  up.w = 431;
  up.in = up.out = 64;
  up.out_groups = 32;
  up.sampling = Sampling::kUpsample;
  narrower = same;
  narrower.in = 256;
  narrower.residual = false;
  narrower.dtype = DType::kBF16;
  fewer = same;
  fewer.h = 130;
  fewer.w = 131;
  ConvSpec half = fewer;
  half.out = 64;
  half.residual = false;
  // Several blocks a job, each of which reads the next one's pixels.
  ConvSpec narrow = fewer;
  narrow.h = 181;
  narrow.w = 230;
  narrow.in = narrow.out = 64;
  return {same, up, narrower, fewer, half, narrow};
}

TEST(CpuSplit, real_tiles_give_what_float32_units_do) {
  if (!cpu::amx_usable()) GTEST_SKIP() << "no AMX here";
  const uint64_t seed = test_seed(19);
  const auto amx = cpu_ops("amx"), avx512 = cpu_ops("avx512"),
             emulated = emulated_amx_ops("avx512");
  const auto expect_equal = [&](const Layer& layer, Ops& other) {
    EXPECT_TRUE(amx->algorithm(layer.graph(), layer.node()).starts_with("amx"));
    const LayerResult truth = layer.run(other), result = layer.run(*amx);
    EXPECT_LE(difference(std::span<const double>(result.y), truth.y).relative_rms, 4e-6);
    expect_same_stats(result, truth);
  };
  Random random(seed);
  for (uint64_t i = 0; i < 40; i++) {
    const ConvSpec s = split_conv(random);
    SCOPED_TRACE(describe(s) + ", seed " + std::to_string(seed + i));
    Random data(seed + i);
    const Layer layer(s, data);
    expect_equal(layer, *avx512);
    if (i < 10) expect_equal(layer, *emulated);
  }
  for (const ConvSpec& s : large_layers()) {
    SCOPED_TRACE(describe(s));
    Random data(seed);
    expect_equal(Layer(s, data), *avx512);
  }
  // Blocks of 256 and of 192 queries, and what is left over.
  for (const int64_t channels : {64, 288}) {
    AttentionSpec s;
    s.h = 41;
    s.w = 43;
    s.channels = channels;
    s.groups = s.out_groups = 8;
    SCOPED_TRACE(describe(s));
    Random data(seed);
    expect_equal(Layer(s, data), *avx512);
  }
}

TEST(CpuSplit, gives_the_same_bytes_for_any_threads_and_split) {
  if (!cpu::amx_usable()) GTEST_SKIP() << "no AMX here";
  for (const ConvSpec& s : large_layers()) expect_same_bytes(s, test_seed(20), {"amx"});
}

}  // namespace
}  // namespace calotype::test
