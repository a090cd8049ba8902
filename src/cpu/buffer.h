// Scratch memory of the kernels: aligned, on huge pages where the system gives them, kept from call
// to call.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "ops/row_memory.h"

namespace calotype::cpu {

inline int64_t round_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }
inline int64_t divide_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

// Grows, and does not keep its contents when it grows. Its pages are the system's own, not of the
// heap, so that all that is let go really goes.
class Buffer {
 public:
  // What `count` floats take: whole pages, huge ones from 2 MiB on (fewer TLB misses).
  static int64_t bytes_for(int64_t count) {
    return round_up(count * 4, count * 4 >= kHugePage ? kHugePage : 4096);
  }

  // At least `count` floats, uninitialised.
  float* reserve(int64_t count) {
    const int64_t bytes = bytes_for(count);
    if (bytes > capacity_) {
      grow(bytes);
    }
    used_ = std::max(used_, bytes);
    return data();
  }
  // Lets go of what is beyond `bytes`, a result of bytes_for.
  void fit(int64_t bytes) {
    if (used_ <= bytes) return;
    ::madvise(range_.data() + bytes, static_cast<size_t>(used_ - bytes), MADV_DONTNEED);
    used_ = bytes;
  }
  int64_t held_bytes() const { return used_; }
  float* data() { return reinterpret_cast<float*>(range_.data()); }
  const float* data() const { return reinterpret_cast<const float*>(range_.data()); }

 private:
  // Pages stay: new ones would have to be cleared.
  void grow(int64_t bytes) {
    if (used_ < kHugePage) range_ = AddressRange();  // before there is more
    AddressRange range(bytes, bytes);
    if (used_ < kHugePage || !move_pages(range_.data(), used_, range.data())) used_ = 0;
    range_ = std::move(range);
    capacity_ = bytes;
  }

  AddressRange range_;
  int64_t capacity_ = 0, used_ = 0;  // bytes; beyond `used_` nothing has memory
};

}  // namespace calotype::cpu
