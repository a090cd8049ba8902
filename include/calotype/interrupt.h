// For programs that end in a signal handler.
#pragma once

#include "calotype/export.h"

namespace calotype {

// Unlinks the temporary files of outputs that are being written, so that ending at once leaves
// nothing half-written. Async-signal-safe.
CALOTYPE_API void remove_temporaries() noexcept;

}  // namespace calotype
