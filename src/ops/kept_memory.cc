#include "ops/kept_memory.h"

#include <algorithm>
#include <utility>

namespace calotype {

std::shared_ptr<KeptMemory> KeptMemory::shared() {
  static std::mutex mutex;
  static std::weak_ptr<KeptMemory> current;
  const std::lock_guard lock(mutex);
  std::shared_ptr<KeptMemory> kept = current.lock();
  if (kept == nullptr) current = kept = std::make_shared<KeptMemory>();
  return kept;
}

int64_t KeptMemory::most(int64_t budget) { return std::min(budget / 4, int64_t{2} << 30); }

Kept KeptMemory::take() {
  const std::lock_guard lock(mutex_);
  return std::exchange(kept_, {});
}

void KeptMemory::give(Kept kept) {
  const std::lock_guard lock(mutex_);
  if (kept.bytes() > kept_.bytes()) std::swap(kept, kept_);
}

}  // namespace calotype
