// SPDX-License-Identifier: BSD-3-Clause
// What a row's exponentials are taken relative to. The mirror of cpu/reference.h, which says why it
// is an integer power of two.
#pragma once

#include "exponential.cuh"

namespace fused_ce::cuda {

template <class S>
struct ReferenceConstants {
  // What e^m becomes, a power of two: float has 87 bits above 2^40, and 166 below. Less of half
  // types, whose exponentials lose digits to a large exponent: the hardware takes both in one
  // float. It is as much as keeps 2^-126, were it the sum of 2^19 exponentials, to 9 bits.
  static constexpr int kHeadroomBits = sizeof(S) == 4 ? 40 : sizeof(S) == 2 ? 28 : 0;
  static constexpr double kLargestSum = sizeof(S) == 8 ? 0x1p1000 : 0x1p126;
  // Up to which share of Scale::largest a logit is near 0. Half types take log2(e) as one float,
  // whose 2^-25 of 128 is what the hardware's exponential is wrong by.
  static constexpr double kNear = sizeof(S) == 2 ? 1 / 16.0 : 1;
};

// Relative to a reference m, e^z is e^(s (x - shift)) 2^-c, where z = s x. The shift is 0 where m
// is near 0.
template <class S>
struct Offset {
  using A = Accumulate<S>;
  A shift, c;

  static __device__ __forceinline__ Offset of(A m, const Scale<A>& scale) {
    using R = ReferenceConstants<S>;
    using K = Constants<A>;
    const A largest = static_cast<A>(R::kNear) * scale.largest;
    const bool is_near = m <= largest && m >= -largest;
    const A rounded = (m * scale.log2e_high + K::kRound) - K::kRound;
    return {is_near ? A(0) : m, (is_near ? rounded : A(0)) - A(R::kHeadroomBits)};
  }
};

// Exponentials of logits of storage type S. Half types: the hardware's, whose 2^-22, and 2^-20 for
// the rounding of what it is taken of, are nothing beside their own. kIsNear: where the shift is
// known to be 0, which is an instruction less.
template <class S, bool kIsNear = false>
class Reference {
  using A = Accumulate<S>;

 public:
  __device__ __forceinline__ Reference(const Offset<S>& offset, const Scale<A>& scale)
      : scale_(scale), offset_(offset), power_(Power<A>::of(offset.c, scale)) {}

  // Calls f with this reference, as one whose shift is known to be 0 where it is.
  template <class F>
  __device__ __forceinline__ void with_nearness(F f) const {
    if (offset_.shift == 0) {
      f(Reference<S, true>(offset_, scale_));
    } else {
      f(*this);
    }
  }

  // e^z, relative to the reference; of one logit, or of Two.
  template <class V>
  __device__ __forceinline__ Exponential<V> exponential(V x) const {
    x = less_shift(x);
    if constexpr (kIsHalf<S>) {
      return {fast_exp2(fma_of(x, all_of<V>(scale_.log2e_high), all_of<V>(-offset_.c))),
              all_of<V>(1)};
    } else {
      return exponential_of(x, scale_, power_);
    }
  }
  // factor * e^z likewise
  __device__ __forceinline__ A exp(A x, A factor = A(1)) const {
    const Exponential<A> e = exponential(x);
    return e.mantissa * (factor * e.power);
  }
  __device__ Sum<A> exp_and_rest(A x) const {
    if constexpr (kIsHalf<S>) return {exp(x), 0};
    return cuda::exp_and_rest<A>(less_shift(x), scale_, power_);
  }

 private:
  __device__ __forceinline__ A less_shift(A x) const { return kIsNear ? x : x - offset_.shift; }
  __device__ __forceinline__ Two less_shift(Two x) const {
    return {less_shift(x.x), less_shift(x.y)};
  }

  const Scale<A>& scale_;
  const Offset<S> offset_;
  const Power<A> power_;
};

// The largest sum of exponentials that a guessed reference may leave, or the row is summed again
// with the true maximum. A sum of exponentials alone must only not overflow; a linear sum of
// x_j - m loses digits to a guess far below the largest logit, so its row must not have a mean
// exponential above this many times e^m.
template <class S>
__device__ __forceinline__ Accumulate<S> largest_sum(bool linear, int64_t classes) {
  using A = Accumulate<S>;
  using R = ReferenceConstants<S>;
  constexpr A kLargestMean = 16;
  constexpr A kOne = static_cast<A>(int64_t{1} << R::kHeadroomBits);
  return linear ? kLargestMean * kOne * static_cast<A>(classes) : static_cast<A>(R::kLargestSum);
}

}  // namespace fused_ce::cuda
