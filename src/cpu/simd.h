// Which instruction set runs. Every kernel is compiled for each target (Highway's foreach_target)
// and exported as a table of functions; a Simd says which entry to call. Highway's own tables would
// need libhwy, which takes two milliseconds of every start to measure a clock.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "cpu/amx.h"
#include "hwy/detect_targets.h"

namespace calotype::cpu {

struct Simd {
  std::string name;  // "amx", "avx512", "avx2", "neon", "generic"
  size_t index = 0;  // into the tables that CALOTYPE_EXPORT makes
  // "amx" is "avx512" with products of float32 by tiles of AMX where those are faster.
  std::optional<AmxUnit> amx = {};
  bool has_avx512 = false;
};

// What this build has and this machine runs, best first.
const std::vector<Simd>& simd_targets();

// `name` empty: the best. Throws Error(kInvalidArgument) for a name that no build knows,
// Error(kUnsupported) where this build or this machine lacks it.
const Simd& find_simd(const std::string& name);

// What the environment variable CALOTYPE_SIMD asks for.
const Simd& chosen_simd();

}  // namespace calotype::cpu

// The instances of `function`, best target first.
#if HWY_IDE || ((HWY_TARGETS & (HWY_TARGETS - 1)) == 0)
#define CALOTYPE_EXPORT(function)                                                          \
  static decltype(&HWY_STATIC_DISPATCH(function)) const HWY_DISPATCH_TABLE(function)[] = { \
      &HWY_STATIC_DISPATCH(function)}
#else
#define CALOTYPE_EXPORT(function)                                                          \
  static decltype(&HWY_STATIC_DISPATCH(function)) const HWY_DISPATCH_TABLE(function)[] = { \
      HWY_CHOOSE_TARGET_LIST(function), HWY_CHOOSE_FALLBACK(function)}
#endif

// The instance of `function` for `simd`, in a file that said CALOTYPE_EXPORT(function).
#define CALOTYPE_DISPATCH(function, simd) (*HWY_DISPATCH_TABLE(function)[(simd).index])
