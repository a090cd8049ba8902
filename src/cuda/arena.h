// First-fit places in one block of memory.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/checked.h"

namespace calotype::cuda {

class Arena {
 public:
  static constexpr int64_t kAlignment = 1024;

  int64_t take(int64_t bytes) {
    bytes = checked_add(bytes, kAlignment - 1) / kAlignment * kAlignment;
    auto place = taken_.begin();
    int64_t start = 0;
    for (; place != taken_.end() && place->start - start < bytes; ++place) start = place->end;
    taken_.insert(place, {start, checked_add(start, bytes)});
    size_ = std::max(size_, start + bytes);
    return start;
  }
  void give(int64_t start) {
    std::erase_if(taken_, [&](const Taken& t) { return t.start == start; });
  }
  int64_t size() const { return size_; }
  int64_t live() const {
    int64_t bytes = 0;
    for (const Taken& t : taken_) bytes += t.end - t.start;
    return bytes;
  }

 private:
  struct Taken {
    int64_t start, end;
  };
  std::vector<Taken> taken_;  // by start
  int64_t size_ = 0;
};

}  // namespace calotype::cuda
