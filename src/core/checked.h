// Arithmetic on sizes that come from files or users: overflow is an error, never a wrap.
#pragma once

#include <cstdint>
#include <limits>

#include "core/cat.h"

namespace calotype {

inline int64_t checked_mul(int64_t a, int64_t b) {
  int64_t product;
  if (__builtin_mul_overflow(a, b, &product)) {
    fail(ErrorCode::kInvalidArgument, "the size ", a, " x ", b,
         " is more than a 64-bit number holds");
  }
  return product;
}

inline int64_t checked_add(int64_t a, int64_t b) {
  int64_t sum;
  if (__builtin_add_overflow(a, b, &sum)) {
    fail(ErrorCode::kInvalidArgument, "the size ", a, " + ", b,
         " is more than a 64-bit number holds");
  }
  return sum;
}

}  // namespace calotype
