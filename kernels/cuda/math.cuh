// SPDX-License-Identifier: BSD-3-Clause
// The functions of both accumulate types by one name, sums that keep what they round away, and
// numbers whose exponents have no bounds.
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

// a / b, rounded little more than once.
template <class A>
__device__ inline A quotient(const Sum<A>& a, const Sum<A>& b) {
  const A q = a.high / b.high;
  const A rest = fma_of(-q, b.low, fma_of(-q, b.high, a.high) + a.low);
  return q + rest / b.high;
}

// x / total as if total were no wider than A, rounded little more than once: most GPUs would take
// longer for one division of doubles than for all else that they do with a row.
template <class A>
__device__ inline A divided(A x, double total) {
  const A high = static_cast<A>(total);
  const A low = static_cast<A>(total - static_cast<double>(high));
  const A q = x / high, correction = fma_of(-q, low, fma_of(-q, high, x)) / high;
  return is_finite(correction) ? q + correction : q;
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
