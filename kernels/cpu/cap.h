// SPDX-License-Identifier: BSD-3-Clause
// The cap of logits, z = cap tanh(scale x / cap) (Gemma 2, arXiv:2408.00118), and its slope.
//
// Of a cap that is a number of the type, z is within 4 ulp, or without a fused multiply-add 4.5;
// the slope is within 4 ulp of scale. ExactKernel.EveryCappedNumber sweeps the floats.
#pragma once

#include "convert.h"
#include "math.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

// e^d - 1 for d from 0 on that e^d is a number of: 2^n (e^r - 1) + (2^n - 1), whose terms are not
// negative but for the first at d near a half-integer power of two.
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

// What a number of memory becomes, and the slope that takes that one's gradient back.
template <class A>
struct Capped {
  Vec<A> logit, slope;
};

// With e = e^(2|u|) - 1, tanh |u| is 1 - 2 / (e + 2), and for small e, where that cancels,
// e / 2 (1 - e / (e + 2)): the quotient's roundings weigh less than the product that it is taken
// from. Its slope, 4 (e + 1) / (e + 2)^2, is 4 q (1 - q) with q = 1 / (e + 2), which cancels
// nowhere.
template <class A>
class Cap {
 public:
  explicit Cap(const Problem& p)
      : inner_(static_cast<A>(p.scale / p.cap)),
        minus_inner_low_(static_cast<A>(static_cast<double>(inner_) - p.scale / p.cap)),
        far_(smaller(kFar / inner_, ExpConstants<A>::kLargest)),
        cap_(static_cast<A>(p.cap)),
        scale_(static_cast<A>(p.scale)) {}

  FUSED_CE_INLINE Capped<A> of(Vec<A> x) const {
    const Vec<A> near = at_most<A>(magnitude<A>(x), splat(far_));
    // |scale x / cap|, to half a unit: what the factor's rounding leaves is added.
    const Vec<A> u = times_minus(near, splat(inner_), near * minus_inner_low_);
    const Vec<A> e = expm1<A>(A(2) * u);
    const Vec<A> q = A(1) / (e + A(2));
    const Vec<A> four = A(4) * q;
    const auto is_large = e > A(2);
    const Vec<A> most = is_large ? splat(cap_) : e * (cap_ / 2);
    const Vec<A> z = most - most * ((is_large ? splat(A(2)) : e) * q);
    const Vec<Int<A>> sign = bits_as<Vec<Int<A>>>(x) & kSignBit<A>;
    return {bits_as<Vec<A>>(bits_as<Vec<Int<A>>>(z) | sign), scale_ * (four - four * q)};
  }

 private:
  // |scale x / cap| of which the slope is as good as 0
  static constexpr A kFar = sizeof(A) == 4 ? A(43) : A(350);

  A inner_, minus_inner_low_;
  A far_;  // the |x| of kFar, or the largest there is
  A cap_, scale_;
};

}  // namespace fused_ce::cpu::FUSED_CE_ISA
