// The cap of logits, z = cap tanh(scale x / cap) (Gemma 2, arXiv:2408.00118), and its slope.
//
// Stated bounds, swept by tests/cpp/kernel_math_test.cpp: tanh 3 ulp, and from 0.9 on 1 ulp; its
// derivative 5 ulp.
#pragma once

#include "convert.h"
#include "math.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

// e^d - 1 for d in [0, 64]: 2^n (e^r - 1) + (2^n - 1), whose terms are not negative but for the
// first at d near a half-integer power of two.
template <class T>
FUSED_CE_INLINE Vec<T> expm1(Vec<T> d) {
  using K = ExpConstants<T>;
  const Vec<T> biased = d * T(1.4426950408889634074) + (K::kRound + T(K::kBias));
  const Vec<T> n = biased - (K::kRound + T(K::kBias));
  const Vec<T> r = (d - n * K::kLn2High) - n * K::kLn2Low;
  const Vec<T> rest = polynomial(K::kQ, r) * r * r + r;
  const Vec<T> power = bits_as<Vec<T>>(bits_as<Vec<Int<T>>>(biased) << K::kMantissaBits);
  return rest * power + (power - T(1));
}

// limit * tanh(u), which is limit e / (e + 2) with e = e^(2|u|) - 1. Where that is above a half, it
// is found from what is missing to the limit: so large logits, whose last digits weigh most in
// their exponentials, are rounded little more than once.
template <class T>
FUSED_CE_INLINE Vec<T> limited(Vec<T> u, T limit) {
  constexpr T kOne = sizeof(T) == 4 ? T(10) : T(20);  // whose tanh is 1
  const Vec<T> e = expm1<T>(T(2) * at_most<T>(magnitude<T>(u), splat(kOne)));
  const Vec<T> quotient = T(1) / (e + T(2));
  const Vec<T> z = e > T(2) ? limit - (T(2) * limit) * quotient : (e * quotient) * limit;
  return bits_as<Vec<T>>(bits_as<Vec<Int<T>>>(z) | (bits_as<Vec<Int<T>>>(u) & kSignBit<T>));
}

// 1 - tanh(u)^2 = 4 e / (1 + e)^2 with e = e^(-2|u|), which cancels nowhere.
template <class T>
FUSED_CE_INLINE Vec<T> tanh_slope(Vec<T> u) {
  const Vec<T> e = exp_scaled<T>(T(-2) * magnitude<T>(u), Power<T>::of(Vec<T>{}));
  const Vec<T> sum = e + T(1);
  return T(4) * e / (sum * sum);
}

// What numbers x of memory become, and the slope that takes z's gradient back to x.
template <class A>
struct Cap {
  A inner, outer, scale;
  explicit Cap(const Problem& p)
      : inner(static_cast<A>(p.scale / p.cap)),
        outer(static_cast<A>(p.cap)),
        scale(static_cast<A>(p.scale)) {}
  FUSED_CE_INLINE Vec<A> logit(Vec<A> x) const { return limited<A>(x * inner, outer); }
  FUSED_CE_INLINE Vec<A> slope(Vec<A> x) const { return tanh_slope<A>(x * inner) * scale; }
};

}  // namespace fused_ce::cpu::FUSED_CE_ISA
