// The cap of logits, z = cap tanh(scale x / cap) (Gemma 2, arXiv:2408.00118), and its slope.
//
// Of a cap that is a number of the type, z is within 4 ulp, or without a fused multiply-add 4.5;
// the slope is within 4 ulp of scale. ExactKernel.EveryCappedNumber sweeps the floats.
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

// limit * tanh(u), which with e = e^(2|u|) - 1 is limit (1 - 2 / (e + 2)), and of small e, where
// that cancels, limit e / 2 (1 - e / (e + 2)): the quotient's roundings weigh less than the product
// that it is taken from.
template <class T>
FUSED_CE_INLINE Vec<T> limited(Vec<T> u, T limit) {
  constexpr T kOne = sizeof(T) == 4 ? T(10) : T(20);  // whose tanh is 1
  const Vec<T> e = expm1<T>(T(2) * at_most<T>(magnitude<T>(u), splat(kOne)));
  const auto is_large = e > T(2);
  const Vec<T> most = is_large ? splat(limit) : e * (limit / 2);
  const Vec<T> z = most - most * ((is_large ? splat(T(2)) : e) / (e + T(2)));
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
class Cap {
 public:
  explicit Cap(const Problem& p)
      : inner_(static_cast<A>(p.scale / p.cap)),
        inner_low_(static_cast<A>(p.scale / p.cap - static_cast<double>(inner_))),
        outer_(static_cast<A>(p.cap)),
        scale_(static_cast<A>(p.scale)) {}
  FUSED_CE_INLINE Vec<A> logit(Vec<A> x) const { return limited<A>(quotient(x), outer_); }
  FUSED_CE_INLINE Vec<A> slope(Vec<A> x) const { return tanh_slope<A>(quotient(x)) * scale_; }

 private:
  // scale x / cap, to half a unit: what the factor's rounding leaves is added, unless x is
  // infinite.
  FUSED_CE_INLINE Vec<A> quotient(Vec<A> x) const {
    return x * inner_ + (x - x == A(0) ? x * inner_low_ : Vec<A>{});
  }

  A inner_, inner_low_, outer_, scale_;
};

}  // namespace fused_ce::cpu::FUSED_CE_ISA
