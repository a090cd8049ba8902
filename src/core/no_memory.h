// What there is to say where the system gives no memory, whatever the budget was.
#pragma once

#include "core/cat.h"

namespace calotype {

// Throws Error(kOutOfMemory). `what`: "a tensor of 12 values".
template <class... Args>
[[noreturn]] void fail_no_memory(const Args&... what) {
  fail(ErrorCode::kOutOfMemory, "there is no memory for ", what...,
       "; raise the limit of the process (ulimit -v), or take a smaller picture");
}

}  // namespace calotype
