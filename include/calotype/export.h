// Marks what the shared library exports.
#pragma once

#if defined(_WIN32)
#define CALOTYPE_API
#else
#define CALOTYPE_API __attribute__((visibility("default")))
#endif
