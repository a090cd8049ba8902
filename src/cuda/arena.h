// Places in one block of memory for things that live from one operation to another, all known
// beforehand.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <limits>
#include <numeric>
#include <vector>

#include "core/checked.h"

namespace calotype::cuda {

class Arena {
 public:
  static constexpr int64_t kAlignment = 1024;

  // Something of `bytes`, alive from operation `first` on. Returns its number.
  int64_t take(int64_t bytes, int64_t first) {
    items_.push_back({{{first, kForever, aligned(bytes)}}});
    return static_cast<int64_t>(items_.size()) - 1;
  }
  // After operation `last` only the first `bytes` of it live on.
  void shrink(int64_t item, int64_t bytes, int64_t last) {
    std::vector<Span>& spans = at(item).spans;
    spans.back().last = last;
    spans.push_back({last + 1, kForever, std::min(aligned(bytes), spans.back().bytes)});
  }
  void give(int64_t item, int64_t last) { at(item).spans.back().last = last; }

  // Deals the memory: the largest first, each as low as it can lie beside those that live with it.
  // Returns the bytes in all.
  int64_t deal() {
    std::vector<size_t> order(items_.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      return items_[a].spans.front().bytes > items_[b].spans.front().bytes;
    });
    int64_t size = 0;
    std::vector<const Item*> placed;
    for (const size_t i : order) {
      Item& item = items_[i];
      std::vector<const Item*> neighbours;
      std::ranges::copy_if(placed, std::back_inserter(neighbours),
                           [&](const Item* other) { return lives_with(item, *other); });
      // It moves up past one after another until it is in nobody's way.
      for (bool moved = true; moved;) {
        moved = false;
        for (const Item* other : neighbours) {
          const int64_t past = collision(item, *other);
          if (past >= 0) {
            item.offset = past;
            moved = true;
          }
        }
      }
      placed.push_back(&item);
      size = std::max(size, checked_add(item.offset, item.spans.front().bytes));
    }
    return size;
  }
  int64_t offset(int64_t item) const { return items_[static_cast<size_t>(item)].offset; }

 private:
  static constexpr int64_t kForever = std::numeric_limits<int64_t>::max() - 1;

  struct Span {
    int64_t first, last, bytes;  // operations, both included
  };
  struct Item {
    std::vector<Span> spans;  // bytes fall
    int64_t offset = 0;
  };

  static int64_t aligned(int64_t bytes) {
    return checked_add(bytes, kAlignment - 1) / kAlignment * kAlignment;
  }
  Item& at(int64_t item) { return items_[static_cast<size_t>(item)]; }

  static bool lives_with(const Item& a, const Item& b) {
    return a.spans.front().first <= b.spans.back().last &&
           b.spans.front().first <= a.spans.back().last;
  }

  // Where `item` is past `other`, if the two meet at its present offset; else -1.
  static int64_t collision(const Item& item, const Item& other) {
    int64_t past = -1;
    for (const Span& a : item.spans) {
      for (const Span& b : other.spans) {
        const bool in_time = a.first <= b.last && b.first <= a.last;
        const bool in_space =
            item.offset < other.offset + b.bytes && other.offset < item.offset + a.bytes;
        if (in_time && in_space) past = std::max(past, other.offset + b.bytes);
      }
    }
    return past;
  }

  std::vector<Item> items_;
};

}  // namespace calotype::cuda
