// What tests of the CPU backend share.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "cpu/cpu_ops.h"
#include "cpu/layer.h"

namespace calotype::test {

// On the instruction set `simd`, of those that CALOTYPE_SIMD takes.
std::unique_ptr<Ops> cpu_ops(const std::string& simd, int threads = 2,
                             Precision precision = Precision::kF32);

// The same with emulated tiles of AMX.
std::unique_ptr<Ops> emulated_amx_ops(const std::string& simd,
                                      Precision precision = Precision::kF32);

int some_groups(int64_t channels, Random& random);
ConvSpec random_conv(Random& random);
AttentionSpec random_attention(Random& random);

void expect_same_stats(const LayerResult& result, const LayerResult& truth);

// The same bytes whatever the threads, the batch and the split of y into calls.
template <class Spec>
void expect_same_bytes(const Spec& spec, uint64_t seed, const std::vector<std::string>& targets) {
  Random random(seed);
  const Layer layer(spec, random);
  for (const std::string& simd : targets) {
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

}  // namespace calotype::test
