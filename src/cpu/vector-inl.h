// Blocks of 16 floats as vectors of the target, and the functions that the network applies to them.
// Included once a target.

#if defined(CALOTYPE_CPU_VECTOR_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CALOTYPE_CPU_VECTOR_INL_H_
#undef CALOTYPE_CPU_VECTOR_INL_H_
#else
#define CALOTYPE_CPU_VECTOR_INL_H_
#endif

// True for the targets whose few registers hold two rows of 16 accumulators.
#undef CALOTYPE_FEW_REGISTERS
#define CALOTYPE_FEW_REGISTERS \
  (HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR)

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "cpu/problem.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace calotype::cpu {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<float, 16>;
using V = hn::Vec<D>;
constexpr D d;
constexpr int64_t kLanes = static_cast<int64_t>(hn::MaxLanes(D()));
constexpr int kParts = static_cast<int>(kBlock / kLanes);  // vectors of a block

// acc += a * b in one instruction. GCC reloads operands and reorders where it sees the intrinsic:
// the register tile reaches 87 % of the FMA peak with it and 94 % with the instruction written out.
HWY_INLINE void accumulate(V& acc, V a, V b) {
#if HWY_TARGET == HWY_AVX2 && HWY_COMPILER_GCC
  asm("vfmadd231ps %2, %1, %0" : "+x"(acc.raw) : "x"(a.raw), "x"(b.raw));
#elif HWY_TARGET == HWY_AVX3 && HWY_COMPILER_GCC
  asm("vfmadd231ps %2, %1, %0" : "+v"(acc.raw) : "v"(a.raw), "v"(b.raw));
#else
  acc = hn::MulAdd(a, b, acc);
#endif
}

// The first `count` of kLanes floats; zeros for the rest.
HWY_INLINE V load_part(const float* p, int64_t count) {
  if (count >= kLanes) return hn::LoadU(d, p);
  HWY_ALIGN float lanes[16] = {};
  if (count > 0) std::memcpy(lanes, p, static_cast<size_t>(count) * sizeof(float));
  return hn::Load(d, lanes);
}

HWY_INLINE void store_part(V v, float* p, int64_t count) {
  if (count >= kLanes) return hn::StoreU(v, d, p);
  HWY_ALIGN float lanes[16];
  hn::Store(v, d, lanes);
  if (count > 0) std::memcpy(p, lanes, static_cast<size_t>(count) * sizeof(float));
}

#if HWY_TARGET == HWY_AVX3

// 2^(u - 1/2) for u to 126.5: two instructions take floor(u) away and add it to the exponent. The
// polynomial is that of exp2_bounded below.
HWY_INLINE V exp2_less_half(V u) {
  constexpr int kFloorQuietly = 0x9;
  const V f{_mm512_reduce_ps(u.raw, kFloorQuietly)};
  V p = hn::Set(d, 1.326472731307149e-3f);
  p = hn::MulAdd(p, f, hn::Set(d, 6.355331162922084e-3f));
  p = hn::MulAdd(p, f, hn::Set(d, 3.948049165774137e-2f));
  p = hn::MulAdd(p, f, hn::Set(d, 1.698105991235934e-1f));
  p = hn::MulAdd(p, f, hn::Set(d, 4.901338474737713e-1f));
  p = hn::MulAdd(p, f, hn::Set(d, 7.071067045544623e-1f));
  return V{_mm512_scalef_ps(p.raw, u.raw)};
}
HWY_INLINE V exp2_bounded(V t) { return exp2_less_half(hn::Add(t, hn::Set(d, 0.5f))); }
// exp(-x), at most 2^126.
HWY_INLINE V exp_minus(V x) {
  const V u = hn::MulAdd(x, hn::Set(d, -1.44269504088896341f), hn::Set(d, 0.5f));
  return exp2_less_half(hn::Min(u, hn::Set(d, 126.5f)));
}

#else

// 2^t for t in [-126, 126], relative error below 2e-7. t = n + f with |f| <= 1/2: adding 1.5 * 2^23
// leaves n in the low bits, a polynomial of degree 5 (minimax on [-1/2, 1/2]: 9e-8) makes 2^f, and
// n is added to its exponent.
HWY_INLINE V exp2_bounded(V t) {
  const V magic = hn::Set(d, 12582912.0f);
  const V m = hn::Add(t, magic);
  const V f = hn::Sub(t, hn::Sub(m, magic));
  V p = hn::Set(d, 1.326472731307149e-3f);
  p = hn::MulAdd(p, f, hn::Set(d, 9.671512991189957e-3f));
  p = hn::MulAdd(p, f, hn::Set(d, 5.550733581185341e-2f));
  p = hn::MulAdd(p, f, hn::Set(d, 2.402224242687225e-1f));
  p = hn::MulAdd(p, f, hn::Set(d, 6.931470036506653e-1f));
  p = hn::MulAdd(p, f, hn::Set(d, 1.0f));
  const hn::RebindToSigned<D> di;
  return hn::BitCast(d, hn::Add(hn::BitCast(di, p), hn::ShiftLeft<23>(hn::BitCast(di, m))));
}
// exp(-x), at most 2^126.
HWY_INLINE V exp_minus(V x) {
  const V t = hn::Mul(x, hn::Set(d, -1.44269504088896341f));
  return exp2_bounded(hn::Max(hn::Min(t, hn::Set(d, 126.0f)), hn::Set(d, -126.0f)));
}

#endif

// x / y for y in [1, 2^126]. A division of 16 lanes takes 16 cycles, as long as the rest of SiLU;
// an approximation of 14 bits and a step of Newton's method take 4 and leave 2^-23.
HWY_INLINE V divide(V x, V y) {
#if HWY_TARGET == HWY_AVX3
  const V r = hn::ApproximateReciprocal(y);
  const V q = hn::Mul(x, r);
  return hn::MulAdd(hn::NegMulAdd(q, y, x), r, q);
#else
  return hn::Div(x, y);
#endif
}

// x / (1 + exp(-x)). The exponent is bounded, so that large |x| give x and -0, never NaN.
HWY_INLINE V silu(V x) { return divide(x, hn::Add(exp_minus(x), hn::Set(d, 1.0f))); }

// What a convolution or attention reads: x, or its norm, or SiLU of that.
enum class Reading { kPlain, kNorm, kNormSilu };

// Channel pointers into a FoldedNorm.
struct NormPointers {
  const float *mean, *scale, *shift;
};

template <Reading kReading>
HWY_INLINE V read(V x, const NormPointers& norm, int64_t channel) {
  if constexpr (kReading == Reading::kPlain) return x;
  const V centred = hn::Sub(x, hn::LoadU(d, norm.mean + channel));
  const V normed =
      hn::MulAdd(centred, hn::LoadU(d, norm.scale + channel), hn::LoadU(d, norm.shift + channel));
  if constexpr (kReading == Reading::kNorm) return normed;
  return silu(normed);
}

// One pixel's channels.
template <Reading kReading>
HWY_INLINE void read_pixel(const float* HWY_RESTRICT x, int64_t channels, const NormPointers& norm,
                           float* HWY_RESTRICT out) {
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) {
    hn::StoreU(read<kReading>(hn::LoadU(d, x + c), norm, c), d, out + c);
  }
  if (c < channels) {
    store_part(read<kReading>(load_part(x + c, channels - c), norm, c), out + c, channels - c);
  }
}

}  // namespace
// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace calotype::cpu
HWY_AFTER_NAMESPACE();

#endif  // CALOTYPE_CPU_VECTOR_INL_H_
