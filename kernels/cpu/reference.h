// SPDX-License-Identifier: BSD-3-Clause
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
#include "exp_table.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

// By storage type.
template <class S>
struct ReferenceConstants {  // the half types
  // |m| beyond which m is subtracted: the short exponential is off by 2^-23 |d|.
  static constexpr float kLargest = 16;
  // What e^m becomes: 2^14, so that a bfloat16 as small as there is (2^-133) is still a loss, at a
  // few 2^-23 of the short exponential's digits.
  static constexpr float kHeadroomBits = 14;
  static constexpr double kLargestSum = 0x1p126;
};

template <>
struct ReferenceConstants<float> {
  static constexpr float kLargest = 256;      // exact up to there
  static constexpr float kHeadroomBits = 40;  // 87 bits above, 166 below
  static constexpr double kLargestSum = 0x1p126;
};

template <>
struct ReferenceConstants<double> {
  static constexpr double kLargest = 2048;
  static constexpr double kHeadroomBits = 0;
  static constexpr double kLargestSum = 0x1p1000;
};

// The largest sum of exponentials that a guessed reference may leave, or the row is summed again
// with the true maximum. A sum of exponentials alone must only not overflow; a linear sum of
// x_j - m loses digits to a guess far below the largest logit, so its row must not have a mean
// exponential above this many times e^m.
template <class S>
inline double largest_sum(bool linear, int64_t classes) {
  using R = ReferenceConstants<S>;
  constexpr double kLargestMean = 16;
  constexpr double kOne = static_cast<double>(int64_t{1} << static_cast<int>(R::kHeadroomBits));
  return linear ? kLargestMean * kOne * static_cast<double>(classes) : R::kLargestSum;
}

// The two numbers that a reference m comes down to: relative to it, e^x is e^(x - shift) 2^-c.
template <class A>
struct Offset {
  Vec<A> shift, c;

  // For the storage type S (double lanes may follow another row's reference).
  template <class S>
  static Offset of(Vec<A> m) {
    using R = ReferenceConstants<S>;
    using K = ExpConstants<A>;
    constexpr A kLargest = static_cast<A>(R::kLargest);
    // About log2(e), in 15 bits: its product with an integer up to kLargest is exact in float too,
    // so that float and double lanes find the same c for every m.
    constexpr A kLog2E = A(0x1.7154p0);
    const auto small = m <= kLargest && m >= -kLargest;
    const Vec<A> integer = (m + K::kRound) - K::kRound;
    const Vec<A> rounded = (integer * kLog2E + K::kRound) - K::kRound;
    return {small ? Vec<A>{} : m, (small ? rounded : Vec<A>{}) - A(R::kHeadroomBits)};
  }
};

// Exponentials of logits of storage type S.
template <class S>
class Reference {
  using A = Accumulate<S>;

 public:
  Reference() = default;
  // shifted: whether any lane's shift differs from 0. scale: what a number in memory is multiplied
  // by to be a logit. A branch that is never taken costs less than a subtraction.
  FUSED_CE_INLINE Reference(Vec<A> shift, Vec<A> c, bool shifted, A scale)
      : shift_(shift), power_(Power<A>::of(c)), scale_(scale), plain_(!shifted && scale == 1) {}
  FUSED_CE_INLINE Reference(const Offset<A>& offset, A scale)
      : Reference(offset.shift, offset.c, !all_lanes(offset.shift == A(0)), scale) {}

  // e^z of the numbers x, relative to the reference; times a factor; or 0 in the lanes of the masks
  // `out`. V: a vector or a pair.
  template <class V>
  FUSED_CE_INLINE V exp(V x) const {
    return exp_scaled<A, kShort>(from_shift(x), power_);
  }
  template <class V, class F>
  FUSED_CE_INLINE V exp(V x, F factor) const {
    return exp_scaled<A, kShort>(from_shift(x), power_, factor);
  }
  template <class V, class M>
  FUSED_CE_INLINE V exp_except(V x, M out) const {
    return exp_scaled<A, kShort>(from_shift(x), power_, One{}, out);
  }
  // Adds e^z of the numbers x, relative to the reference, and, if that is wanted, e^z times how far
  // z lies below a logit z_m: no NaN of -inf, which counts as the farthest number whose exponential
  // is 0. `top`: from_shift of the number of z_m.
  template <class V>
  FUSED_CE_INLINE void add_exp_and_gap(V x, Vec<A> top, bool wants_gap, V& exponentials,
                                       V& gaps) const {
    const V d = each([&](Vec<A> v) { return at_least<A>(v, lowest(power_)); }, from_shift(x));
    const V exponential = exp_above<A, kShort>(d, power_);
    exponentials += exponential;
    if (wants_gap) gaps += exponential * (top - d);
  }
  // The logits of the numbers x, less the shift. One rounding of both, where the instruction set
  // has a fused multiply-add.
  template <class V>
  FUSED_CE_INLINE V from_shift(V x) const {
    if (plain_) return x;
    return each([&](Vec<A> v) { return times_minus(v, splat(scale_), shift_); }, x);
  }
  // Lane i of the result is the reference of lane from[i].
  FUSED_CE_INLINE Reference permuted(Vec<Int<A>> from) const {
    Reference result;
    result.shift_ = plain_ ? Vec<A>{} : permute(shift_, from);
    result.power_ = power_.permuted(from);
    result.scale_ = scale_;
    result.plain_ = plain_;
    return result;
  }

 private:
  static constexpr bool kShort = sizeof(S) == 2;

  Vec<A> shift_;
  Power<A> power_;
  A scale_;
  bool plain_;
};

}  // namespace fused_ce::cpu::FUSED_CE_ISA
