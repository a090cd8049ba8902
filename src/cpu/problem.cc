#include "cpu/problem.h"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>

namespace calotype::cpu {

FoldedNorm fold_norm(const GroupNorm& norm, std::span<const GroupStats> stats, int64_t batch) {
  const int64_t channels = norm.weight.size();
  const int64_t per_group = channels / norm.groups;
  std::vector<float> weight(static_cast<size_t>(channels)), bias(weight.size());
  copy_elements(norm.weight, 0, std::span<float>(weight));
  copy_elements(norm.bias, 0, std::span<float>(bias));

  FoldedNorm folded;
  folded.channels = round_up(channels, kBlock);
  folded.values.assign(static_cast<size_t>(batch * 3 * folded.channels), 0.0f);
  for (int64_t picture = 0; picture < batch; picture++) {
    float* values = folded.values.data() + picture * 3 * folded.channels;
    for (int64_t c = 0; c < channels; c++) {
      const GroupStats& group = stats[static_cast<size_t>(picture * norm.groups + c / per_group)];
      const double variance = group.m2 / group.count;
      const double scale = weight[static_cast<size_t>(c)] / std::sqrt(variance + norm.eps);
      const float mean = static_cast<float>(group.mean);
      values[c] = mean;
      values[folded.channels + c] = static_cast<float>(scale);
      values[2 * folded.channels + c] = static_cast<float>(
          static_cast<double>(bias[static_cast<size_t>(c)]) - (group.mean - mean) * scale);
    }
  }
  return folded;
}

void ChannelSums::merge_into(int64_t unit, int64_t channels, std::span<GroupStats> groups) {
  const auto count = static_cast<double>(counts_[static_cast<size_t>(unit)]);
  if (count == 0) return;
  const int64_t per_group = channels / static_cast<int64_t>(groups.size());
  const double of_one = 1 / count;
  const BlockSums at = this->at(unit);
  int64_t c = 0;
  for (GroupStats& group : groups) {
    for (const int64_t end = c + per_group; c < end; c++) {
      const double sum = at.sum[c], mean = sum * of_one;  // about the shift
      group.merge({count, at.shift[c] + mean, at.square[c] - sum * mean});
    }
  }
}

void merge_sums(ChannelSums& sums, int64_t channels, int64_t parts, int64_t first_band,
                int64_t bands, BandStats& stats) {
  for (int64_t band = 0; band < bands; band++) {
    for (int64_t picture = 0; picture < stats.batch; picture++) {
      GroupStats* groups = stats.at(first_band + band, picture);
      std::fill_n(groups, stats.groups, GroupStats{});
      for (int64_t part = 0; part < parts; part++) {
        sums.merge_into((picture * bands + band) * parts + part, channels,
                        {groups, static_cast<size_t>(stats.groups)});
      }
    }
  }
}

bool goes_past_caches(const Simd& simd, const ConvProblem& p) {
  // Bytes of an L3. On the servers that have AMX, of an L2: L3 is no faster than memory there.
  const int64_t large = int64_t{simd.amx ? 1 : 32} << 20;
  const bool aligned = reinterpret_cast<uintptr_t>(p.call.y.data) % 64 == 0 &&
                       p.y.c % kBlock == 0 && p.call.y.picture_stride % kBlock == 0;
  return aligned && p.call.y.data != p.call.residual.data && p.y.h * p.y.w * p.y.c * 4 >= large;
}

void touch_pages(void* memory, int64_t bytes, int threads, const Ops::Tick& tick) {
#ifdef MADV_POPULATE_WRITE
  constexpr int64_t kPage = 4096;
  const int64_t into_page = reinterpret_cast<intptr_t>(memory) % kPage;
  const int64_t into_huge_page = reinterpret_cast<intptr_t>(memory) % kHugePage;
  std::byte* const first = static_cast<std::byte*>(memory) - into_huge_page;
  const int64_t begin = into_huge_page - into_page, end = round_up(into_huge_page + bytes, kPage);
  ThreadPool::shared().parallel_for(
      threads, divide_up(end, kHugePage),
      [&](int64_t piece, int) {
        const int64_t from = std::max(begin, piece * kHugePage);
        const int64_t to = std::min(end, (piece + 1) * kHugePage);
        ::madvise(first + from, static_cast<size_t>(to - from), MADV_POPULATE_WRITE);
      },
      [&](int64_t) {
        if (tick) tick(0);
      });
#endif
}

void Workspace::open(const WorkspaceBytes& bytes, const Ops::Tick& tick) {
  const int64_t before = slots_.held_bytes();
  slots_.reserve(bytes.slots / 4);
  slot_floats_ = bytes.slots / 4 / threads / kBlock * kBlock;
  if (const int64_t held = slots_.held_bytes(); held > before) {
    touch_pages(slots_.data() + before / 4, held - before, threads, tick);
  }
}

}  // namespace calotype::cpu
