// Scratch memory of the kernels: aligned, on huge pages where the system gives them, kept from call
// to call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "core/no_memory.h"

namespace calotype::cpu {

inline int64_t round_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }
inline int64_t divide_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

// Grows, never shrinks, and does not keep its contents when it grows.
class Buffer {
 public:
  // At least `count` floats, uninitialised.
  float* reserve(int64_t count) {
    if (count > capacity_) {
      data_.reset();
      capacity_ = 0;
      const auto bytes = static_cast<size_t>(round_up(count * 4, count * 4 >= kHuge ? kHuge : 64));
      void* p = std::aligned_alloc(bytes >= kHuge ? static_cast<size_t>(kHuge) : 64, bytes);
      if (p == nullptr) fail_no_memory("a workspace of ", bytes, " bytes");
#ifdef __linux__
      if (bytes >= kHuge) (void)madvise(p, bytes, MADV_HUGEPAGE);  // fewer TLB misses
#endif
      data_.reset(static_cast<float*>(p));
      capacity_ = count;
    }
    return data_.get();
  }
  float* data() { return data_.get(); }
  const float* data() const { return data_.get(); }

 private:
  static constexpr int64_t kHuge = int64_t{2} << 20;  // bytes of a huge page on x86-64 and arm64

  struct Free {
    void operator()(float* p) const noexcept { std::free(p); }
  };
  std::unique_ptr<float[], Free> data_;
  int64_t capacity_ = 0;
};

}  // namespace calotype::cpu
