#include <algorithm>

#include "ops/ops.h"

namespace calotype {

std::vector<GroupStats> BandStats::merged() const {
  std::vector<GroupStats> total(static_cast<size_t>(batch * groups));
  for (size_t i = 0; i < values.size(); i++) total[i % total.size()].merge(values[i]);
  return total;
}

std::pair<int64_t, int64_t> Ops::input_rows(const Graph& graph, const ConvNode& node, int64_t first,
                                            int64_t last) const {
  const int64_t h = graph.extent(node.x).h, reach = node.conv.kernel / 2;
  int64_t from = first - reach, to = last + reach;
  if (node.sampling == Sampling::kUpsample) {
    from = (first - reach) >> 1;  // floor
    to = ((last - 1 + reach) >> 1) + 1;
  } else if (node.sampling == Sampling::kDownsample) {
    from = 2 * first;
    to = 2 * (last - 1) + node.conv.kernel;
  }
  return {std::clamp<int64_t>(from, 0, h), std::clamp<int64_t>(to, 0, h)};
}

}  // namespace calotype
