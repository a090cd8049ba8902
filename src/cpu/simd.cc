#include "cpu/simd.h"

#include <algorithm>
#include <cstdlib>

#include "core/cat.h"
#include "hwy/highway.h"

namespace calotype::cpu {
namespace {

struct Known {
  const char* name;
  int64_t target;  // Highway's bit
};

// What runs where nothing better does: SSE4.2 on x86-64, elsewhere Highway's portable code (which
// of the two depends on the compiler).
#if HWY_ARCH_X86
constexpr int64_t kGeneric = HWY_SSE4;
#else
constexpr int64_t kGeneric = HWY_EMU128 | HWY_SCALAR;
#endif

// Best first.
constexpr Known kKnown[] = {
    {"avx512", HWY_AVX3}, {"avx2", HWY_AVX2}, {"neon", HWY_NEON}, {"generic", kGeneric}};

constexpr const char* kAmx = "amx";

#if HWY_IDE || ((HWY_TARGETS & (HWY_TARGETS - 1)) == 0)
// One target, one entry in every table.
size_t table_index(int64_t) { return 0; }
int64_t machine_targets() { return HWY_TARGETS; }
#else
size_t table_index(int64_t target) {
  hwy::ChosenTarget chosen;
  chosen.Update(target);
  return chosen.GetIndex() - 1;  // Highway's tables begin with an entry that chooses
}
int64_t machine_targets() {
  int64_t targets = HWY_EMU128 | HWY_SCALAR;
#if HWY_ARCH_X86
  const auto all = [](auto... have) { return ((have != 0) && ...); };
  const bool sse4 = all(__builtin_cpu_supports("sse4.2"), __builtin_cpu_supports("aes"),
                        __builtin_cpu_supports("pclmul"));
  const bool avx2 = sse4 && all(__builtin_cpu_supports("avx2"), __builtin_cpu_supports("fma"),
                                __builtin_cpu_supports("bmi"), __builtin_cpu_supports("bmi2"));
  const bool avx3 =
      avx2 && all(__builtin_cpu_supports("avx512f"), __builtin_cpu_supports("avx512vl"),
                  __builtin_cpu_supports("avx512dq"), __builtin_cpu_supports("avx512bw"),
                  __builtin_cpu_supports("avx512cd"));
  if (sse4) targets |= HWY_SSE4;
  if (avx2) targets |= HWY_AVX2;
  if (avx3) targets |= HWY_AVX3;
#else
  targets |= HWY_NEON;  // of every 64-bit ARM
#endif
  return targets;
}
#endif

std::string names(const std::vector<Simd>& targets) {
  std::string text;
  for (const Simd& t : targets) text += (text.empty() ? "" : ", ") + t.name;
  return text;
}

}  // namespace

const std::vector<Simd>& simd_targets() {
  static const std::vector<Simd> targets = [] {
    std::vector<Simd> found;
    const int64_t runs = machine_targets();
    for (const Known& known : kKnown) {
      if ((HWY_TARGETS & runs & known.target) == 0) continue;
      const Simd target{.name = known.name,
                        .index = table_index(known.target),
                        .has_avx512 = known.target == HWY_AVX3};
      if (target.has_avx512 && amx_usable()) {
        found.push_back(target);
        found.back().name = kAmx;
        found.back().amx = AmxUnit::kReal;
      }
      found.push_back(target);
    }
    return found;
  }();
  return targets;
}

const Simd& find_simd(const std::string& name) {
  const std::vector<Simd>& targets = simd_targets();
  if (targets.empty()) {
    fail(ErrorCode::kUnsupported,
         "this processor has none of the instruction sets that Calotype "
         "was built for; on x86-64 it needs SSE4.2");
  }
  if (name.empty()) return targets.front();
  for (const Simd& target : targets) {
    if (target.name == name) return target;
  }
  const bool known = name == kAmx || std::any_of(std::begin(kKnown), std::end(kKnown),
                                                 [&](const Known& k) { return k.name == name; });
  if (!known) {
    fail(ErrorCode::kInvalidArgument, "CALOTYPE_SIMD is \"", name,
         "\", which is no instruction set that Calotype knows; here it can be ", names(targets));
  }
  fail(ErrorCode::kUnsupported, "CALOTYPE_SIMD asks for ", name,
       ", which this machine or this build lacks; here it can be ", names(targets));
}

const Simd& chosen_simd() {
  const char* name = std::getenv("CALOTYPE_SIMD");
  return find_simd(name == nullptr ? "" : name);
}

}  // namespace calotype::cpu
