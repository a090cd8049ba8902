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

KeptPages KeptMemory::take() {
  const std::lock_guard lock(mutex_);
  return std::exchange(pages_, {});
}

void KeptMemory::give(KeptPages pages) {
  const std::lock_guard lock(mutex_);
  if (pages.bytes > pages_.bytes) std::swap(pages, pages_);
}

}  // namespace calotype
