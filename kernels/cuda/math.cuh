// SPDX-License-Identifier: BSD-3-Clause
// exp, and sums that keep what they round away. The exponential of float is made of IEEE operations
// alone, so that a CPU computes the same bits: its bound, 1.5 ulp below the last power of two
// before overflow, is swept without a GPU (tests/cpp/kernel_cuda_math_test.cpp).
#pragma once

#include "types.cuh"

namespace fused_ce::cuda {

template <class A>
struct Constants;

template <>
struct Constants<float> {
  static constexpr float kRound = 0x1.8p23f;  // adding and taking it away rounds to an integer
  static constexpr int kMantissaBits = 23, kBias = 127;
  static constexpr float kLog2EHigh = 0x1.715476p0f, kLog2ELow = 0x1.4ae0cp-26f;
  static constexpr float kLn2High = 0x1.62ep-1f;  // 12 bits: n * kLn2High is exact for |n| < 2^12
  static constexpr float kLn2Low = 0x1.0bfbe8p-15f;
  static constexpr float kTiny = 1e-30f, kLargest = 0x1.fffffep127f;
};
template <>
struct Constants<double> {
  static constexpr double kRound = 0x1.8p52;
  static constexpr int kMantissaBits = 52, kBias = 1023;
  static constexpr double kLog2EHigh = 0x1.71547652b82fep0, kLog2ELow = 0x1.777d0ffda0d24p-56;
  static constexpr double kLn2High = 0x1.62e42fefa3000p-1;  // 41 bits: exact for |n| < 2^12
  static constexpr double kLn2Low = 0x1.3de6af278ece6p-42;
  static constexpr double kTiny = 1e-290, kLargest = 0x1.fffffffffffffp1023;
};

__device__ __forceinline__ float fma_of(float a, float b, float c) { return fmaf(a, b, c); }
__device__ __forceinline__ double fma_of(double a, double b, double c) { return fma(a, b, c); }
// A product that no addition is fused with: the same bits wherever it is made.
__device__ __forceinline__ float product(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ double product(double a, double b) { return __dmul_rn(a, b); }
__device__ __forceinline__ float larger(float a, float b) { return fmaxf(a, b); }
__device__ __forceinline__ double larger(double a, double b) { return fmax(a, b); }
__device__ __forceinline__ float smaller(float a, float b) { return fminf(a, b); }
__device__ __forceinline__ double smaller(double a, double b) { return fmin(a, b); }
__device__ __forceinline__ float ldexp_of(float x, int n) { return ldexpf(x, n); }
__device__ __forceinline__ double ldexp_of(double x, int n) { return ldexp(x, n); }
__device__ __forceinline__ float log_of(float x) { return logf(x); }
__device__ __forceinline__ double log_of(double x) { return log(x); }
__device__ __forceinline__ float log1p_of(float x) { return log1pf(x); }
__device__ __forceinline__ double log1p_of(double x) { return log1p(x); }
template <class A>
__device__ __forceinline__ A infinity() {
  return static_cast<A>(__builtin_huge_val());
}
template <class A>
__device__ __forceinline__ bool is_finite(A x) {
  return x - x == A(0);
}
template <class A>
__device__ __forceinline__ bool is_nan(A x) {
  return x != x;
}

__device__ __forceinline__ int32_t bits_of(float x) { return __float_as_int(x); }
__device__ __forceinline__ int64_t bits_of(double x) { return __double_as_longlong(x); }
__device__ __forceinline__ float from_bits(int32_t x) { return __int_as_float(x); }
__device__ __forceinline__ double from_bits(int64_t x) { return __longlong_as_double(x); }
template <class A>
using Int = decltype(bits_of(A()));

// 2^f on [-1/2, 1/2] is 1 + f q(f), q a minimax fit (Remez), relative error 2^-28.9.
__device__ __forceinline__ float exp2_slope(float f) {
  float q = 0x1.41fbbcp-13f;
  q = fmaf(q, f, 0x1.5f3e52p-10f);
  q = fmaf(q, f, 0x1.3b2d4cp-7f);
  q = fmaf(q, f, 0x1.c6aee8p-5f);
  q = fmaf(q, f, 0x1.ebfbdcp-3f);
  return fmaf(q, f, 0x1.62e43p-1f);
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
__device__ __forceinline__ float exp2_of_fraction(float f) { return fmaf(exp2_slope(f), f, 1.0f); }
__device__ __forceinline__ double exp2_of_fraction(double f) { return exp2(f); }

// What exponentials multiply their arguments by: e^(s x) with x as it is. s is in the constants of
// the reduction to base 2, where it costs no instruction and no rounding. Made on the host.
template <class A>
struct Scale {
  A s;
  A log2e_high, log2e_low;  // s log2(e), to twice the digits of A
  A ln2;                    // ln(2) / s
  A largest;                // 2048 / s: |x| beyond which e^(s x) has to be relative to something

  explicit Scale(double scale) : s(static_cast<A>(scale)) {
    using K = Constants<double>;
    log2e_high = static_cast<A>(scale * K::kLog2EHigh);
    log2e_low = static_cast<A>(fma(scale, K::kLog2EHigh, -static_cast<double>(log2e_high)) +
                               scale * K::kLog2ELow);
    ln2 = static_cast<A>(0.6931471805599453094 / scale);
    largest = static_cast<A>(2048 / scale);
  }
};

// A power of two, 2^-c, in the form that exp_scaled multiplies by it.
template <class A>
struct Power {
  A low, high;  // arguments from which on the product is 0 and infinity
  A round;      // added, it rounds to an integer whose low bits are the product's exponent field
  static __device__ __forceinline__ Power of(A c, const Scale<A>& scale) {
    using K = Constants<A>;
    const A low = (c - A(K::kBias)) * scale.ln2;
    return {low, low + A(2 * K::kBias + 1) * scale.ln2, (K::kRound + A(K::kBias)) - c};
  }
};

// e^(s d) * 2^-c as 2^fraction * two_to_n.
template <class A>
struct Reduced {
  A fraction, two_to_n;

  // s d log2(e) is cut into an integer and a fraction in two steps that round nothing away (Cody
  // and Waite, 1980), and the power of two is added to the integer, so that a reference costs no
  // rounding at all.
  static __device__ __forceinline__ Reduced of(A d, const Scale<A>& scale, const Power<A>& power) {
    d = d < power.low ? power.low : d;  // not fmax, which loses NaN
    d = d > power.high ? power.high : d;
    const A rounded = fma_of(d, scale.log2e_high, power.round);
    const A n = rounded - power.round;
    const A f = fma_of(d, scale.log2e_high, -n);
    return {fma_of(d, scale.log2e_low, f),
            from_bits(bits_of(rounded) << Constants<A>::kMantissaBits)};
  }
};

// factor * e^(s d) * 2^-c for integer-valued c, |c| < 2^13. Products below the smallest normal
// number are 0.
template <class A>
__device__ __forceinline__ A exp_scaled(A d, const Scale<A>& scale, const Power<A>& power,
                                        A factor) {
  const Reduced<A> r = Reduced<A>::of(d, scale, power);
  return exp2_of_fraction(r.fraction) * (factor * r.two_to_n);
}

// A sum and what its additions rounded away (Knuth's two-sum; Neumaier, ZAMM 54, 1974).
template <class A>
struct Sum {
  A high = 0, low = 0;

  __device__ __forceinline__ void add(A value) {
    const A sum = high + value, part = sum - high;
    low += (high - (sum - part)) + (value - part);
    high = sum;
  }
  __device__ __forceinline__ void add(const Sum& other) {  // the same whichever is added to which
    const A lost = low + other.low;
    low = 0;
    add(other.high);
    low += lost;
  }
  __device__ __forceinline__ A total() const { return is_finite(high) ? high + low : high; }
};

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
  using K = Constants<A>;
  constexpr A kLn2 = A(0.6931471805599453094);
  d = d < power.low ? power.low : d;
  d = d > power.high ? power.high : d;
  const A rounded = fma_of(d, scale.log2e_high, power.round);
  const A n = rounded - power.round, high = fma_of(d, scale.log2e_high, -n);
  const A f = fma_of(d, scale.log2e_low, high), lost = fma_of(d, scale.log2e_low, high - f);
  const Sum<A> e = exp2_and_rest(f);
  const A two_to_n = from_bits(bits_of(rounded) << K::kMantissaBits);
  return {e.high * two_to_n, (e.low + e.high * (kLn2 * lost)) * two_to_n};
}

// a / b, rounded little more than once.
template <class A>
__device__ inline A quotient(const Sum<A>& a, const Sum<A>& b) {
  const A q = a.high / b.high;
  const A rest = fma_of(-q, b.low, fma_of(-q, b.high, a.high) + a.low);
  return q + rest / b.high;
}

// A number as a mantissa and an exponent, so that products keep their digits where steps to them
// are too large or too small for A.
template <class A>
struct Scaled {
  A mantissa, exponent;

  // With a mantissa in [1/2, 1). 0, subnormal, infinite and NaN numbers stay whole.
  static __device__ Scaled of(A x) {
    using K = Constants<A>;
    constexpr Int<A> kField = 2 * K::kBias + 1;
    const Int<A> bits = bits_of(x), field = (bits >> K::kMantissaBits) & kField;
    if (field == 0 || field == kField) return {x, 0};
    return {from_bits((bits & ~(kField << K::kMantissaBits)) |
                      (static_cast<Int<A>>(K::kBias - 1) << K::kMantissaBits)),
            static_cast<A>(field - (K::kBias - 1))};
  }
  __device__ Scaled normalized() const {
    const Scaled m = of(mantissa);
    return {m.mantissa, m.exponent + exponent};
  }
  __device__ A value() const { return ldexp_of(mantissa, static_cast<int>(exponent)); }

  __device__ Scaled operator*(const Scaled& x) const {
    return {mantissa * x.mantissa, exponent + x.exponent};
  }
  __device__ Scaled operator/(const Scaled& x) const {
    return {mantissa / x.mantissa, exponent - x.exponent};
  }
  __device__ Scaled operator+(const Scaled& x) const {
    const bool first = x.mantissa == 0 || (mantissa != 0 && exponent > x.exponent);
    const Scaled& large = first ? *this : x;
    const Scaled& small = first ? x : *this;
    return {large.mantissa +
                ldexp_of(small.mantissa, static_cast<int>(small.exponent - large.exponent)),
            large.exponent};
  }
};

// a / b, b a normal number.
template <class A>
__device__ inline Scaled<A> quotient(const Scaled<A>& a, const Sum<A>& b) {
  const Scaled<A> high = Scaled<A>::of(b.high);
  const A low = ldexp_of(b.low, -static_cast<int>(high.exponent));
  return {quotient(Sum<A>{a.mantissa, 0}, Sum<A>{high.mantissa, low}), a.exponent - high.exponent};
}

}  // namespace fused_ce::cuda
