// Memory that jobs of a process leave to the next one. New pages are cleared by the system, which
// takes a tenth of the time of a decode and more in virtual machines, so the last job's are kept.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>

#include "ops/ops.h"
#include "ops/row_memory.h"

namespace calotype {

struct Kept {
  KeptPages pages;           // of activations
  std::unique_ptr<Ops> ops;  // and its workspace; may be null

  int64_t bytes() const {
    return pages.bytes + (ops == nullptr ? 0 : ops->held_workspace().total());
  }
};

// One job's at most: what a job takes counts in its own plan, and a job that starts takes it all.
class KeptMemory {
 public:
  // The same one as long as somebody holds it (every model does), empty else.
  static std::shared_ptr<KeptMemory> shared();
  // Of a job with `budget` bytes: between jobs the rest is for whatever the caller does.
  static int64_t most(int64_t budget);

  Kept take();
  // Keeps the larger of what it has and `kept`.
  void give(Kept kept);

 private:
  std::mutex mutex_;
  Kept kept_;
};

}  // namespace calotype
