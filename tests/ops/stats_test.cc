#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/ops.h"
#include "reference/reference_ops.h"
#include "support/random.h"

namespace calotype::test {
namespace {

GroupStats stats_of(std::span<const double> values) {
  GroupStats stats;
  for (const double v : values) stats.merge({1, v, 0});
  return stats;
}

// Around a mean a million times the deviation, where a sum of squares would have nothing left.
TEST(GroupStats, merge_without_losing_a_small_deviation) {
  Random random(1);
  std::vector<double> values(1000);
  for (double& v : values) v = 1e6 + random.normal();
  double mean = 0, m2 = 0;
  for (const double v : values) mean += (v - 1e6) / 1000;
  for (const double v : values) m2 += (v - 1e6 - mean) * (v - 1e6 - mean);
  GroupStats stats;
  for (size_t i = 0; i < values.size(); i += 125) {
    stats.merge(stats_of(std::span(values).subspan(i, 125)));
  }
  EXPECT_EQ(stats.count, 1000);
  EXPECT_NEAR(stats.mean, 1e6 + mean, 1e-9);
  EXPECT_NEAR(stats.m2, m2, 1e-6 * m2);
}

TEST(GroupStats, of_nothing_change_nothing) {
  GroupStats stats = stats_of(std::vector<double>{1, 2, 4});
  const GroupStats before = stats;
  stats.merge({});
  EXPECT_EQ(stats.count, before.count);
  EXPECT_EQ(stats.mean, before.mean);
  EXPECT_EQ(stats.m2, before.m2);
  GroupStats empty;
  empty.merge(before);
  EXPECT_EQ(empty.mean, before.mean);
}

TEST(BandStats, merge_their_bands_picture_by_picture_and_group_by_group) {
  BandStats bands;
  bands.bands = 3;
  bands.batch = 2;
  bands.groups = 2;
  bands.values.resize(12);
  for (int64_t band = 0; band < 3; band++) {
    for (int64_t picture = 0; picture < 2; picture++) {
      for (int64_t group = 0; group < 2; group++) {
        const double value = static_cast<double>(100 * picture + 10 * group + band);
        bands.at(band, picture)[group] = {1, value, 0};
      }
    }
  }
  const std::vector<GroupStats> merged = bands.merged();
  ASSERT_EQ(merged.size(), 4u);
  for (size_t i = 0; i < 4; i++) {
    EXPECT_EQ(merged[i].count, 3);
    EXPECT_DOUBLE_EQ(merged[i].mean,
                     100.0 * static_cast<double>(i / 2) + 10.0 * static_cast<double>(i % 2) + 1);
    EXPECT_DOUBLE_EQ(merged[i].m2, 2);
  }
}

// By the definition of each sampling, row by row.
std::pair<int64_t, int64_t> rows_needed(Sampling sampling, int64_t kernel, int64_t height,
                                        int64_t first, int64_t last) {
  int64_t from = height, to = 0;
  for (int64_t y = first; y < last; y++) {
    for (int64_t k = 0; k < kernel; k++) {
      int64_t x = y + k - kernel / 2;
      if (sampling == Sampling::kDownsample) x = 2 * y + k;
      if (sampling == Sampling::kUpsample) x = x < 0 || x >= 2 * height ? -1 : x / 2;
      if (x < 0 || x >= height) continue;
      from = std::min(from, x);
      to = std::max(to, x + 1);
    }
  }
  return {from, to};
}

TEST(InputRows, hold_every_row_that_a_convolution_reads) {
  const auto ops = make_reference_ops(1);
  for (const Sampling sampling : {Sampling::kSame, Sampling::kUpsample, Sampling::kDownsample}) {
    for (const int64_t kernel : {1, 3}) {
      if (kernel == 1 && sampling != Sampling::kSame) continue;
      for (const int64_t height : {2, 3, 8, 9}) {
        Graph graph({height, 2, 1});
        const Activation y =
            graph.conv("conv", graph.input(), {{}, {}, 1, 1, kernel}, {.sampling = sampling});
        const auto& node = std::get<ConvNode>(graph.nodes().front());
        const int64_t rows = graph.extent(y).h;
        for (int64_t first = 0; first < rows; first++) {
          for (int64_t last = first + 1; last <= rows; last++) {
            const auto needed = rows_needed(sampling, kernel, height, first, last);
            const auto [from, to] = ops->input_rows(graph, node, first, last);
            EXPECT_LE(from, needed.first);
            EXPECT_GE(to, needed.second);
            EXPECT_GE(from, 0);
            EXPECT_LE(to, height);
            EXPECT_LE(to - from, needed.second - needed.first + 1) << "far more than needed";
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace calotype::test
