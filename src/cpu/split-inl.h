// Float32 as three bf16 for tiles of AMX (see amx.h). Included once a target.

#if defined(CALOTYPE_CPU_SPLIT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CALOTYPE_CPU_SPLIT_INL_H_
#undef CALOTYPE_CPU_SPLIT_INL_H_
#else
#define CALOTYPE_CPU_SPLIT_INL_H_
#endif

#include "cpu/amx.h"
#include "cpu/vector-inl.h"

HWY_BEFORE_NAMESPACE();
namespace calotype::cpu {
namespace HWY_NAMESPACE {
namespace {

// Of x the upper halves, of these floats, are the three bf16: eight bits of the fraction each, cut
// off and not rounded, so that nothing overflows and their sum is x (but for what is below 1e-38).
struct Split {
  V high, middle, low;
};
HWY_INLINE Split split(V x) {
  const hn::RebindToUnsigned<D> du;
  const auto upper = [&](V v) HWY_ATTR {
    return hn::BitCast(d, hn::And(hn::BitCast(du, v), hn::Set(du, 0xffff0000u)));
  };
  const V middle = hn::Sub(x, upper(x));
  return {x, middle, hn::Sub(middle, upper(middle))};
}

// Two bf16, rounded: their sum is x but for 2^-17 of it.
struct SplitOfTwo {
  V high, middle;
};
HWY_INLINE SplitOfTwo split_of_two(V x) {
  const hn::RebindToUnsigned<D> du;
  const auto round = [&](V v) HWY_ATTR {
    return hn::BitCast(d, hn::Add(hn::BitCast(du, v), hn::Set(du, 0x8000u)));
  };
  const V high = round(x);
  const V upper = hn::BitCast(d, hn::And(hn::BitCast(du, high), hn::Set(du, 0xffff0000u)));
  return {high, round(hn::Sub(x, upper))};
}

// The upper halves of a and b as neighbours: 2 * kLanes bf16.
HWY_INLINE void store_pairs(V a, V b, uint16_t* out) {
  const hn::RebindToUnsigned<D> du;
  const auto even = hn::ShiftRight<16>(hn::BitCast(du, a));
  const auto pairs = hn::OrAnd(even, hn::BitCast(du, b), hn::Set(du, 0xffff0000u));
  hn::StoreU(pairs, du, reinterpret_cast<uint32_t*>(out));
}

// High, middle and low parts of pairs, `part` bf16 from one to the next.
HWY_INLINE void store_split(const Split& a, const Split& b, int64_t part, uint16_t* out) {
  store_pairs(a.high, b.high, out);
  store_pairs(a.middle, b.middle, out + part);
  store_pairs(a.low, b.low, out + 2 * part);
}

HWY_INLINE void store_split(const SplitOfTwo& a, const SplitOfTwo& b, int64_t part, uint16_t* out) {
  store_pairs(a.high, b.high, out);
  store_pairs(a.middle, b.middle, out + part);
}

// The same into B, whose parts are the other way round: `out` is the low one's place.
HWY_INLINE void store_split_of_b(const Split& a, const Split& b, uint16_t* out) {
  constexpr int64_t kPart = split_panel(1);
  store_split(a, b, -kPart, out + 2 * kPart);
}
HWY_INLINE void store_split_of_b(const SplitOfTwo& a, const SplitOfTwo& b, uint16_t* out) {
  constexpr int64_t kPart = split_panel(1);
  store_split(a, b, -kPart, out + kPart);
}

}  // namespace
// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace calotype::cpu
HWY_AFTER_NAMESPACE();

#endif  // CALOTYPE_CPU_SPLIT_INL_H_
