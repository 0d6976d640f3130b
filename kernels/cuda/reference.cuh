// SPDX-License-Identifier: BSD-3-Clause
// What a row's exponentials are taken relative to. The mirror of cpu/reference.h, which says why it
// is an integer power of two.
#pragma once

#include "math.cuh"

namespace fused_ce::cuda {

template <class S>
struct ReferenceConstants {
  // What e^m becomes, a power of two: float has 87 bits above 2^40, and 166 below. Less of half
  // types, whose exponentials lose digits to a large exponent: the hardware takes both in one
  // float. It is as much as keeps 2^-126, were it the sum of 2^19 exponentials, to 9 bits.
  static constexpr int kHeadroomBits = sizeof(S) == 4 ? 40 : sizeof(S) == 2 ? 28 : 0;
  static constexpr double kLargestSum = sizeof(S) == 8 ? 0x1p1000 : 0x1p126;
};

// Relative to a reference m, e^z is e^(s (x - shift)) 2^-c, where z = s x.
template <class S>
struct Offset {
  using A = Accumulate<S>;
  A shift, c;

  static __device__ __forceinline__ Offset of(A m, const Scale<A>& scale) {
    using R = ReferenceConstants<S>;
    using K = Constants<A>;
    // Differences of half types are exact in float: m itself is subtracted.
    if constexpr (kIsHalf<S>) return {m, -A(R::kHeadroomBits)};
    const bool small = m <= scale.largest && m >= -scale.largest;
    const A rounded = (m * scale.log2e_high + K::kRound) - K::kRound;
    return {small ? A(0) : m, (small ? rounded : A(0)) - A(R::kHeadroomBits)};
  }
};

// Exponentials of logits of storage type S.
template <class S>
class Reference {
  using A = Accumulate<S>;

 public:
  __device__ __forceinline__ Reference(const Offset<S>& offset, const Scale<A>& scale)
      : scale_(scale), shift_(offset.shift), power_(Power<A>::of(offset.c, scale)) {}

  // factor * e^z, relative to the reference
  __device__ __forceinline__ A exp(A x, A factor = A(1)) const {
    return exp_scaled<A>(x - shift_, scale_, power_, factor);
  }
  __device__ Sum<A> exp_and_rest(A x) const {
    return cuda::exp_and_rest<A>(x - shift_, scale_, power_);
  }

 private:
  const Scale<A>& scale_;
  A shift_;
  Power<A> power_;
};

// Half types: the hardware's exponential, whose 2^-22, and 2^-20 for the rounding of what it is
// taken of, are nothing beside their own.
template <class S>
class HalfReference {
 public:
  __device__ __forceinline__ HalfReference(const Offset<S>& offset, const Scale<float>& scale)
      : scale_(scale), shift_(offset.shift), c_(offset.c) {}

  __device__ __forceinline__ float exp(float x, float factor = 1) const {
    return factor * fast_exp2(fmaf(x - shift_, scale_.log2e_high, -c_));
  }
  __device__ Sum<float> exp_and_rest(float x) const { return {exp(x), 0}; }

 private:
  const Scale<float>& scale_;
  float shift_, c_;
};
template <>
class Reference<BFloat16> : public HalfReference<BFloat16> {
  using HalfReference::HalfReference;
};
template <>
class Reference<Half> : public HalfReference<Half> {
  using HalfReference::HalfReference;
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
