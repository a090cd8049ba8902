// What every fuzz target does: hostile bytes may only end in a result or in a calotype::Error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "calotype/error.h"

namespace calotype {

template <class Call>
int fuzz_bytes(const uint8_t* data, size_t size, Call&& call) {
  try {
    call(std::as_bytes(std::span(data, size)));
  } catch (const Error& error) {
    // An internal error is a fault of ours, not of the bytes.
    if (error.code() == ErrorCode::kInternal) __builtin_trap();
  }
  return 0;
}

}  // namespace calotype
