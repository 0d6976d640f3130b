// SPDX-License-Identifier: BSD-3-Clause
// exp. That of float is made of IEEE operations alone, so that a CPU computes the same bits: its
// bound, 1.5 ulp below the last power of two before overflow, is swept without a GPU
// (tests/cpp/kernel_cuda_math_test.cpp).
#pragma once

#include "math.cuh"

namespace fused_ce::cuda {

// Two numbers, which sm_100 and later multiply and add in one instruction. The bits are those of
// one after the other.
using Two = float2;

__device__ __forceinline__ Two fma_of(Two a, Two b, Two c) { return fma_both(a, b, c); }
__device__ __forceinline__ Two max_or_nan(Two a, float b) {
  return {max_or_nan(a.x, b), max_or_nan(a.y, b)};
}
__device__ __forceinline__ Two fast_exp2(Two a) { return {fast_exp2(a.x), fast_exp2(a.y)}; }
__device__ __forceinline__ Two saturate(Two a) { return {saturate(a.x), saturate(a.y)}; }
__device__ __forceinline__ float shift_left(float x, int n) { return from_bits(bits_of(x) << n); }
__device__ __forceinline__ Two shift_left(Two x, int n) {
  return {shift_left(x.x, n), shift_left(x.y, n)};
}

// x in the place of every number of a V, which is one float or Two.
template <class V>
__device__ __forceinline__ V all_of(float x) {
  if constexpr (sizeof(V) == sizeof(float)) {
    return x;
  } else {
    return {x, x};
  }
}

// 2^f on [-1/2, 1/2] is 1 + f q(f), q a minimax fit (Remez), relative error 2^-28.9.
template <class V>
__device__ __forceinline__ V exp2_slope(V f) {
  V q = all_of<V>(0x1.41fbbcp-13f);
  q = fma_of(q, f, all_of<V>(0x1.5f3e52p-10f));
  q = fma_of(q, f, all_of<V>(0x1.3b2d4cp-7f));
  q = fma_of(q, f, all_of<V>(0x1.c6aee8p-5f));
  q = fma_of(q, f, all_of<V>(0x1.ebfbdcp-3f));
  return fma_of(q, f, all_of<V>(0x1.62e43p-1f));
}
// 2^f - 1 on [-1/2, 1/2], of which exp2_slope would lose digits near 0: relative error 2^-27.6. Its
// largest term is rounded with the sum alone.
__device__ __forceinline__ float exp2_less_one(float f) {
  float q = 0x1.ffcbdep-17f;
  q = fmaf(q, f, 0x1.443f62p-13f);
  q = fmaf(q, f, 0x1.5d88bep-10f);
  q = fmaf(q, f, 0x1.3b2a1cp-7f);
  q = fmaf(q, f, 0x1.c6b08cp-5f);
  q = fmaf(q, f, 0x1.ebfbep-3f);
  return fmaf(0x1.62e43p-1f, f, q * f * f);
}
__device__ __forceinline__ double exp2_less_one(double f) {
  return expm1(f * 0.6931471805599453094);
}
template <class V>
__device__ __forceinline__ V exp2_of_fraction(V f) {
  return fma_of(exp2_slope(f), f, all_of<V>(1.0f));
}
__device__ __forceinline__ double exp2_of_fraction(double f) { return exp2(f); }

// What exponentials multiply their arguments by: e^(s x) with x as it is. s is in the constants of
// the reduction to base 2, where it costs no instruction and no rounding. Made on the host.
template <class A>
struct Scale {
  A s;
  A log2e_high, log2e_low;  // s log2(e), to twice the digits of A
  A log2e_share;            // the same as a share of the largest exponent field
  A ln2;                    // ln(2) / s
  A largest;                // 2048 / s: |x| beyond which e^(s x) has to be relative to something

  explicit Scale(double scale) : s(static_cast<A>(scale)) {
    using K = Constants<double>;
    log2e_high = static_cast<A>(scale * K::kLog2EHigh);
    log2e_low = static_cast<A>(fma(scale, K::kLog2EHigh, -static_cast<double>(log2e_high)) +
                               scale * K::kLog2ELow);
    log2e_share = static_cast<A>(scale * K::kLog2EHigh / (2 * Constants<A>::kBias + 1));
    ln2 = static_cast<A>(0.6931471805599453094 / scale);
    largest = static_cast<A>(2048 / scale);
  }
};

// A power of two, 2^-c, in the form that a Reduced multiplies by it.
template <class A>
struct Power;

template <>
struct Power<float> {
  float low;    // arguments up to which the product is 0
  float share;  // the exponent field of the product for an argument of 0, as a share of the largest
  float back;   // from the product's exponent field to the power of two itself, see Reduced

  static __device__ __forceinline__ Power of(float c, const Scale<float>& scale) {
    using K = Constants<float>;
    return {(c - K::kBias) * scale.ln2, (K::kBias - c) * (1.0f / (2 * K::kBias + 1)),
            (K::kRound + K::kBias) - c};
  }
};
template <>
struct Power<double> {
  double low, high;  // arguments from which on the product is 0 and infinity
  double round;  // added, it rounds to an integer whose low bits are the product's exponent field

  static __device__ __forceinline__ Power of(double c, const Scale<double>& scale) {
    using K = Constants<double>;
    const double low = (c - K::kBias) * scale.ln2;
    return {low, low + (2 * K::kBias + 1) * scale.ln2, (K::kRound + K::kBias) - c};
  }
};

// e^(s d) * 2^-c as 2^fraction * two_to_n. V: one number or Two.
template <class V>
struct Reduced {
  V fraction, two_to_n;
  V coarse;  // the fraction by s log2(e) to the digits of A alone

  // s d log2(e) is cut into an integer and a fraction in two steps that round nothing away (Cody
  // and Waite, 1980), and the power of two is added to the integer, so that a reference costs no
  // rounding at all.
  static __device__ __forceinline__ Reduced of(double d, const Scale<double>& scale,
                                               const Power<double>& power) {
    d = d < power.low ? power.low : d;  // not fmax, which loses NaN
    d = d > power.high ? power.high : d;
    const double rounded = fma_of(d, scale.log2e_high, power.round);
    const double f = fma_of(d, scale.log2e_high, power.round - rounded);
    return {fma_of(d, scale.log2e_low, f),
            from_bits(bits_of(rounded) << Constants<double>::kMantissaBits), f};
  }
  // The same where an instruction can keep what it computes within [0, 1] at no cost: the product's
  // exponent field as a share of the largest one, 255, is held between 0, where the product is 0,
  // and 1, where it is infinite. Of 1.5 * 2^15 and that field as a multiple of 2^-8 the low bits
  // are the field. What lies below is held there, so that no infinite 2^fraction meets that 0.
  static __device__ __forceinline__ Reduced of(V d, const Scale<float>& scale,
                                               const Power<float>& power) {
    constexpr float kRound = 0x1.8p15f;
    d = max_or_nan(d, power.low);
    const V share = saturate(fma_of(d, all_of<V>(scale.log2e_share), all_of<V>(power.share)));
    const V field = fma_of(share, all_of<V>(255.0f / 256), all_of<V>(kRound));
    const V less_n = fma_of(field, all_of<V>(-256.0f), all_of<V>(power.back));
    const V f = fma_of(d, all_of<V>(scale.log2e_high), less_n);
    return {fma_of(d, all_of<V>(scale.log2e_low), f),
            shift_left(field, Constants<float>::kMantissaBits), f};
  }
};

// An exponential as two factors, for who adds it up: the product is not rounded then.
template <class V>
struct Exponential {
  V mantissa, power;

  __device__ __forceinline__ V added_to(V sum) const { return fma_of(mantissa, power, sum); }
};

// e^(s d) * 2^-c for integer-valued c, |c| < 2^13. Products below the smallest normal number are 0.
template <class V, class A>
__device__ __forceinline__ Exponential<V> exponential_of(V d, const Scale<A>& scale,
                                                         const Power<A>& power) {
  const Reduced<V> r = Reduced<V>::of(d, scale, power);
  return {exp2_of_fraction(r.fraction), r.two_to_n};
}

// factor * e^(s d) * 2^-c likewise.
template <class A>
__device__ __forceinline__ A exp_scaled(A d, const Scale<A>& scale, const Power<A>& power,
                                        A factor) {
  const Exponential<A> e = exponential_of(d, scale, power);
  return e.mantissa * (factor * e.power);
}

// 2^f, and what rounding it left out.
__device__ __forceinline__ Sum<float> exp2_and_rest(float f) {
  const float q = exp2_slope(f), e = fmaf(q, f, 1.0f);
  return {e, fmaf(q, f, 1.0f - e)};
}
__device__ __forceinline__ Sum<double> exp2_and_rest(double f) { return {exp2(f), 0}; }

// e^(s d) * 2^-c as exp_scaled computes it, and what that rounds away, but for a fourth of a unit
// in the last place: for the one exponential of a row by which the others' sum is divided.
template <class A>
__device__ inline Sum<A> exp_and_rest(A d, const Scale<A>& scale, const Power<A>& power) {
  constexpr A kLn2 = A(0.6931471805599453094);
  const Reduced<A> r = Reduced<A>::of(d, scale, power);
  const A f = r.fraction, lost = fma_of(d, scale.log2e_low, r.coarse - f);
  const Sum<A> e = exp2_and_rest(f);
  return {e.high * r.two_to_n, (e.low + e.high * (kLn2 * lost)) * r.two_to_n};
}

}  // namespace fused_ce::cuda
