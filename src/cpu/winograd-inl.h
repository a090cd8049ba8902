// One-dimensional Winograd transforms (Lavin and Gray 2016; Toom-Cook with the point at infinity).
// Included once a target.
//
// F(m, r) makes m outputs of a filter of r taps from n = m + r - 1 inputs with n products. With
// points p_0 .. p_{n-2} and infinity, and N(x) = prod (x - p_i):
//   filter  u_i = sum_k g_k p_i^k / N'(p_i),        u_inf = g_{r-1}
//   input   v_i = coefficients of N(x) / (x - p_i) applied to d, v_inf = those of N(x)
//   output  y_j = sum_i p_i^j u_i v_i (+ u_inf v_inf for j = m - 1)
// Points in pairs +-p share the even and the odd half of every sum.

#if defined(CALOTYPE_CPU_WINOGRAD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CALOTYPE_CPU_WINOGRAD_INL_H_
#undef CALOTYPE_CPU_WINOGRAD_INL_H_
#else
#define CALOTYPE_CPU_WINOGRAD_INL_H_
#endif

#include "cpu/vector-inl.h"

HWY_BEFORE_NAMESPACE();
namespace calotype::cpu {
namespace HWY_NAMESPACE {
namespace {

HWY_INLINE V constant(double value) { return hn::Set(d, static_cast<float>(value)); }

// Points 0, +-a, +-b, infinity: F(4, 3) and F(5, 2). 0.625 and 1.5 keep the largest factors of all
// three transforms small: the error of a layer is 1e-6 to 2e-6, a third of what 1 and 2 give.
template <int kTaps_, int kOutputs_>
struct SixPoints {
  static constexpr int kTaps = kTaps_, kOutputs = kOutputs_, kPoints = 6;
  static_assert(kTaps + kOutputs - 1 == kPoints);
  static constexpr double a = 0.625, b = 1.5, aa = a * a, bb = b * b;

  HWY_INLINE static void input(const V* in, V* out) {
    const V even_b = hn::NegMulAdd(constant(bb), in[2], in[4]);
    const V odd_b = hn::NegMulAdd(constant(bb), in[1], in[3]);
    const V even_a = hn::NegMulAdd(constant(aa), in[2], in[4]);
    const V odd_a = hn::NegMulAdd(constant(aa), in[1], in[3]);
    out[0] = hn::MulAdd(constant(aa * bb), in[0], hn::NegMulAdd(constant(aa + bb), in[2], in[4]));
    out[1] = hn::MulAdd(constant(a), odd_b, even_b);
    out[2] = hn::NegMulAdd(constant(a), odd_b, even_b);
    out[3] = hn::MulAdd(constant(b), odd_a, even_a);
    out[4] = hn::NegMulAdd(constant(b), odd_a, even_a);
    out[5] = hn::MulAdd(constant(aa * bb), in[1], hn::NegMulAdd(constant(aa + bb), in[3], in[5]));
  }

  HWY_INLINE static void output(const V* in, V* out) {
    const V even_a = hn::Add(in[1], in[2]), odd_a = hn::Sub(in[1], in[2]);
    const V even_b = hn::Add(in[3], in[4]), odd_b = hn::Sub(in[3], in[4]);
    out[0] = hn::Add(in[0], hn::Add(even_a, even_b));
    out[1] = hn::MulAdd(constant(b), odd_b, hn::Mul(constant(a), odd_a));
    out[2] = hn::MulAdd(constant(bb), even_b, hn::Mul(constant(aa), even_a));
    if constexpr (kOutputs == 4) {
      out[3] = hn::MulAdd(constant(bb * b), odd_b, hn::MulAdd(constant(aa * a), odd_a, in[5]));
    } else {
      out[3] = hn::MulAdd(constant(bb * b), odd_b, hn::Mul(constant(aa * a), odd_a));
      out[4] = hn::MulAdd(constant(bb * bb), even_b, hn::MulAdd(constant(aa * aa), even_a, in[5]));
    }
  }

  HWY_INLINE static void filter(const V* taps, V* out) {
    out[0] = hn::Mul(constant(1 / (aa * bb)), taps[0]);
    // N'(+-a) = a (2a)(a^2 - b^2), and the same for b.
    pair<1>(taps, a, 1 / (2 * aa * (aa - bb)), out);
    pair<3>(taps, b, 1 / (2 * bb * (bb - aa)), out);
    out[5] = taps[kTaps - 1];
  }

 private:
  template <int kFirst>
  HWY_INLINE static void pair(const V* taps, double p, double factor, V* out) {
    V even = hn::Mul(constant(factor), taps[0]);
    if constexpr (kTaps == 3) even = hn::MulAdd(constant(factor * p * p), taps[2], even);
    out[kFirst] = hn::MulAdd(constant(factor * p), taps[1], even);
    out[kFirst + 1] = hn::NegMulAdd(constant(factor * p), taps[1], even);
  }
};

using F43 = SixPoints<3, 4>;
using F52 = SixPoints<2, 5>;

// Points 0, +-1/2, +-1, +-2, infinity: F(6, 3), at four times the error of F(4, 3).
struct F63 {
  static constexpr int kTaps = 3, kOutputs = 6, kPoints = 8;
  static constexpr double a = 0.5, b = 1, c = 2;
  static constexpr double aa = a * a, bb = b * b, cc = c * c;

  HWY_INLINE static void input(const V* in, V* out) {
    const V first = constant(aa * bb * cc), second = constant(aa * bb + aa * cc + bb * cc),
            third = constant(aa + bb + cc);
    const auto ends = [&](const V* x) HWY_ATTR {
      return hn::NegMulAdd(first, x[0], hn::MulAdd(second, x[2], hn::NegMulAdd(third, x[4], x[6])));
    };
    out[0] = ends(in);
    input_pair(in, a, bb, cc, out + 1);
    input_pair(in, b, aa, cc, out + 3);
    input_pair(in, c, aa, bb, out + 5);
    out[7] = ends(in + 1);
  }

  HWY_INLINE static void output(const V* in, V* out) {
    const V even_a = hn::Add(in[1], in[2]), odd_a = hn::Sub(in[1], in[2]);
    const V even_b = hn::Add(in[3], in[4]), odd_b = hn::Sub(in[3], in[4]);
    const V even_c = hn::Add(in[5], in[6]), odd_c = hn::Sub(in[5], in[6]);
    const auto sum = [](double fa, V va, double fb, V vb, double fc, V vc) HWY_ATTR {
      return hn::MulAdd(constant(fc), vc, hn::MulAdd(constant(fb), vb, hn::Mul(constant(fa), va)));
    };
    out[0] = hn::Add(hn::Add(in[0], even_a), hn::Add(even_b, even_c));
    out[1] = sum(a, odd_a, b, odd_b, c, odd_c);
    out[2] = sum(aa, even_a, bb, even_b, cc, even_c);
    out[3] = sum(aa * a, odd_a, bb * b, odd_b, cc * c, odd_c);
    out[4] = sum(aa * aa, even_a, bb * bb, even_b, cc * cc, even_c);
    out[5] = hn::Add(sum(aa * aa * a, odd_a, bb * bb * b, odd_b, cc * cc * c, odd_c), in[7]);
  }

  HWY_INLINE static void filter(const V* taps, V* out) {
    out[0] = hn::Mul(constant(-1 / (aa * bb * cc)), taps[0]);
    filter_pair(taps, a, 1 / (2 * aa * (aa - bb) * (aa - cc)), out + 1);
    filter_pair(taps, b, 1 / (2 * bb * (bb - aa) * (bb - cc)), out + 3);
    filter_pair(taps, c, 1 / (2 * cc * (cc - aa) * (cc - bb)), out + 5);
    out[7] = taps[2];
  }

 private:
  // v of +-p, where q and r are the squares of the other points.
  HWY_INLINE static void input_pair(const V* in, double p, double q, double r, V* out) {
    const V sum = constant(q + r), product = constant(q * r);
    const V even = hn::MulAdd(product, in[2], hn::NegMulAdd(sum, in[4], in[6]));
    const V odd = hn::MulAdd(product, in[1], hn::NegMulAdd(sum, in[3], in[5]));
    out[0] = hn::MulAdd(constant(p), odd, even);
    out[1] = hn::NegMulAdd(constant(p), odd, even);
  }
  HWY_INLINE static void filter_pair(const V* taps, double p, double factor, V* out) {
    const V even =
        hn::MulAdd(constant(factor * p * p), taps[2], hn::Mul(constant(factor), taps[0]));
    out[0] = hn::MulAdd(constant(factor * p), taps[1], even);
    out[1] = hn::NegMulAdd(constant(factor * p), taps[1], even);
  }
};

}  // namespace
// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace calotype::cpu
HWY_AFTER_NAMESPACE();

#endif  // CALOTYPE_CPU_WINOGRAD_INL_H_
