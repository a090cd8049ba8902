#include "ops/ops.h"

namespace calotype {

std::vector<GroupStats> BandStats::merged() const {
  std::vector<GroupStats> total(static_cast<size_t>(batch * groups));
  for (size_t i = 0; i < values.size(); i++) total[i % total.size()].merge(values[i]);
  return total;
}

}  // namespace calotype
