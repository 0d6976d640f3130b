// What a row's exponentials are taken relative to.
//
// Any finite number would do mathematically. Numerically, e^(x - m) with a rounded difference x - m
// costs up to |x - m| / 2 ulp, which is what spoils the loss of confident rows elsewhere. So the
// reference is an integer power of two, e^x * 2^-c, which rounds nothing; and where |m| is too
// large for that, x - m is exact for every x whose exponential matters (Sterbenz: x lies within a
// factor of two of m), so m itself is subtracted first.
//
// m need not be the row's maximum: the sums have headroom for logits well above it, and a sum that
// overflows is seen (kLargestSum) and done again with the true maximum.
#pragma once

#include "convert.h"
#include "math.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

// By storage type.
template <class S>
struct ReferenceConstants {  // the half types: exponents near 0 lose nothing in exp_half
  static constexpr float kLargest = 256;  // |m| beyond which m is subtracted
  static constexpr float kHeadroomBits =
      0;  // what e^m becomes: 2^0, 127 bits above it and 126 below
  static constexpr double kLargestSum = 0x1p126;
};

template <>
struct ReferenceConstants<float> {
  static constexpr float kLargest = 256;
  static constexpr float kHeadroomBits = 40;  // 87 bits above, 166 below
  static constexpr double kLargestSum = 0x1p126;
};

template <>
struct ReferenceConstants<double> {
  static constexpr double kLargest = 2048;
  static constexpr double kHeadroomBits = 0;
  static constexpr double kLargestSum = 0x1p1000;
};

template <class S>
struct Reference {
  using A = Accumulate<S>;
  Vec<A> shift, c;

  // Exponentials relative to m, for the storage type `For` (double lanes may follow another row's
  // reference).
  template <class For = S>
  static Reference of(Vec<A> m) {
    using R = ReferenceConstants<For>;
    using K = ExpConstants<A>;
    constexpr A kLargest = static_cast<A>(R::kLargest);
    const auto small = m <= kLargest && m >= -kLargest;
    const Vec<A> rounded = (m * A(1.4426950408889634074) + K::kRound) - K::kRound;
    return {small ? Vec<A>{} : m, (small ? rounded : Vec<A>{}) - A(R::kHeadroomBits)};
  }

  FUSED_CE_INLINE Vec<A> exp(Vec<A> x) const {
#if defined(__AVX512F__)
    if constexpr (sizeof(S) == 2) return exp_half(x - shift, c);
#endif
    return exp_scaled<A>(x - shift, c);
  }
};

}  // namespace fused_ce::cpu::FUSED_CE_ISA
