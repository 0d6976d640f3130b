// exp and log, vectorised. Coefficients: minimax (Remez) fits in 200-bit arithmetic, rounded to the
// working type. Stated bounds, swept by tests/cpp/kernel_math_test.cpp: exp 1 ulp (float) and 1.1
// ulp (double) below the last power of two before overflow, log and log1p 1 ulp (double).
#pragma once

#include "vec.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

template <class T>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  static constexpr float kLow = -512;         // AVX-512: below, 2^-c * e^d is 0 for every c in use
  static constexpr float kRound = 0x1.8p23f;  // adding and taking it away rounds to an integer
  static constexpr int kMantissaBits = 23, kBias = 127;
  static constexpr float kLn2High = 0x1.62ep-1f;  // 12 bits: n * kLn2High is exact for |n| < 2^12
  static constexpr float kLn2Low = 0x1.0bfbe8p-15f;
  // e^r = 1 + r + r^2 q(r) on |r| <= ln(2)/2, relative error 2^-28.2
  static constexpr float kQ[] = {0x1.fffffcp-2f, 0x1.555492p-3f, 0x1.5558f2p-5f, 0x1.1239e2p-7f,
                                 0x1.6a242cp-10f};
  // the same, relative error 2^-23.1
  static constexpr float kQHalf[] = {0x1.fffdfcp-2f, 0x1.5557aep-3f, 0x1.5729fp-5f, 0x1.106284p-7f};
};

template <>
struct ExpConstants<double> {
  static constexpr double kLow = -4096;
  static constexpr double kRound = 0x1.8p52;
  static constexpr int kMantissaBits = 52, kBias = 1023;
  static constexpr double kLn2High = 0x1.62e42fefa3000p-1;  // 41 bits: exact for |n| < 2^12
  static constexpr double kLn2Low = 0x1.3de6af278ece6p-42;
  // relative error 2^-57.9
  static constexpr double kQ[] = {0.500000000000001063,   0.166666666666664126,
                                  0.0416666666665301594,  0.00833333333349444591,
                                  0.00138888889436299262, 0.00019841269506607021,
                                  2.48014930990256496e-5, 2.75575863535222782e-6,
                                  2.7630248368472882e-7,  2.50000666264774653e-8};
};

// k[0] + k[1] r + k[2] r^2 ... A long one as two of half the length in r^2, which are computed side
// by side.
template <class T, size_t kN>
FUSED_CE_INLINE Vec<T> polynomial(const T (&k)[kN], Vec<T> r) {
  constexpr size_t kStep = kN < 7 ? 1 : 2;
  const Vec<T> power = kStep == 1 ? r : r * r;
  Vec<T> sums[2] = {splat(k[kN - 1]), splat(k[kN - kStep])};
  for (size_t i = kN - kStep; i-- > 0;) {
    Vec<T>& sum = sums[(kN - 1 - i) % kStep];
    sum = sum * power + k[i];
  }
  if constexpr (kStep == 1) return sums[0];
  return kN % 2 == 1 ? sums[1] * r + sums[0] : sums[0] * r + sums[1];
}

// A power of two, 2^-c, in the form that exp_scaled multiplies by it.
#if defined(__AVX512F__)
template <class T>
struct Power {
  Vec<T> c;
  static FUSED_CE_INLINE Power of(Vec<T> c) { return {c}; }
};
#else
template <class T>
struct Power {
  Vec<T> low, high;  // arguments from which on the product is 0 and infinity
  Vec<T> round;  // added, it rounds to an integer whose low bits are the product's exponent field
  static FUSED_CE_INLINE Power of(Vec<T> c) {
    using K = ExpConstants<T>;
    constexpr T kLn2 = T(0.6931471805599453094);
    const Vec<T> low = (c - T(K::kBias)) * kLn2;
    return {low, low + T(2 * K::kBias + 1) * kLn2, (K::kRound + T(K::kBias)) - c};
  }
};
#endif

#if defined(__AVX512F__)
// e^d * 2^-c with fewer instructions: 2^t with t = d log2(e) - c. The rounding of t costs |t|
// half-ulps: relative error 2^-23 + |t| 2^-24. Both instructions have the limits right: t of -inf
// and inf gives 0 and inf.
FUSED_CE_INLINE Vec<float> exp_half(Vec<float> d, Vec<float> c) {
  // 2^f = 1 + f q(f) on [0, 1), relative error 2^-23.3
  constexpr float kQ[] = {0x1.62e4bap-1f, 0x1.ebdb56p-3f, 0x1.c91ce6p-5f, 0x1.277854p-7f,
                          0x1.e97502p-10f};
  constexpr int kRoundDown = 0x09;  // imm8 of VREDUCEPS: to an integer, towards -inf, quietly
  const Vec<float> t = d * 1.44269504f - c;
  const Vec<float> f = _mm512_reduce_ps(t, kRoundDown);
  Vec<float> q = splat(kQ[4]);
  for (int i = 3; i >= 0; --i) q = q * f + kQ[i];
  return _mm512_scalef_ps(q * f + 1.0f, t);
}
#endif

// factor * e^d * 2^-c for integer-valued c; relative error of the exponential 1 ulp. Where e^d 2^-c
// is below the smallest normal number the result is 0 (AVX-512: or the subnormal number); where it
// is past the largest, infinity (and for d of 2^22 and more perhaps NaN, on AVX-512). The argument
// is reduced by Cody and Waite's two-part ln 2 (Software Manual for the Elementary Functions,
// 1980), which needs no fused multiply-add to be exact; taking the reference out as an integer
// power of two costs no rounding at all.
//
// kHalf: for logits of a half type, near whose own precision a relative error of 2^-22 + |d| 2^-24
// is nothing.
template <class T, bool kHalf = false>
FUSED_CE_INLINE Vec<T> exp_scaled(Vec<T> d, const Power<T>& power, Vec<T> factor = splat(T(1))) {
  using K = ExpConstants<T>;
  constexpr T kLog2E = T(1.4426950408889634074);
#if defined(__AVX512F__)
  if constexpr (kHalf) return exp_half(d, power.c) * factor;
  d = at_least<T>(d, splat(K::kLow));
  const Vec<T> n = (d * kLog2E + K::kRound) - K::kRound;
#else
  d = at_most<T>(at_least<T>(d, power.low), power.high);
  const Vec<T> rounded = d * kLog2E + power.round;
  const Vec<T> n = rounded - power.round;
#endif
#if defined(__FMA__)
  Vec<T> r, q;
  if constexpr (kHalf) {
    r = d - n * T(0.6931471805599453094);
    q = polynomial<T>(K::kQHalf, r);
  } else {
    r = (d - n * K::kLn2High) - n * K::kLn2Low;
    q = polynomial<T>(K::kQ, r);
  }
  const Vec<T> exp_r = (q * r + T(1)) * r + T(1);
#else
  const Vec<T> r = (d - n * K::kLn2High) - n * K::kLn2Low;
  const Vec<T> exp_r = (polynomial<T>(K::kQ, r) * r * r + r) + T(1);
#endif
  // The factor meets the power of two, which is there long before the polynomial.
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return _mm512_scalef_ps(exp_r, n - power.c) * factor;
  if constexpr (sizeof(T) == 8) return _mm512_scalef_pd(exp_r, n - power.c) * factor;
#else
  return exp_r * (factor * bits_as<Vec<T>>(bits_as<Vec<Int<T>>>(rounded) << K::kMantissaBits));
#endif
}

// log(v + lost) for v > 0 and a `lost` below its last place, by log(1 + f) = log((1 + s) / (1 - s))
// = 2 s + s z L(z), z = s^2, s = f / (2 + f) (Tang, ACM TOMS 16, 1990), with v + lost = 2^k (1 + f)
// and 1 + f in [sqrt(1/2), sqrt(2)). f takes up most of `lost`, and the rest is added last.
FUSED_CE_INLINE Vec<double> log_sum(Vec<double> v, Vec<double> lost) {
  using K = ExpConstants<double>;
  constexpr int64_t kSqrtHalf = 0x3fe6a09e667f3bcd;
  // relative error 2^-58.5
  constexpr double kL[] = {0.666666666666673447, 0.399999999994142999, 0.285714287424787683,
                           0.222221985631265854, 0.181835648842726522, 0.153140353977747323,
                           0.147961097707526222};
  const Vec<int64_t> bits = bits_as<Vec<int64_t>>(v);
  const Vec<int64_t> exponent = (bits - kSqrtHalf) >> 52;
  const Vec<double> m = bits_as<Vec<double>>(bits - (exponent << 52));
  // 2^-k, or 0 where k is so large that nothing can be lost
  const Vec<int64_t> scale_field = exponent < 1023 ? 1023 - exponent : Vec<int64_t>{};
  const Vec<double> scale = bits_as<Vec<double>>(scale_field << 52);
  const Vec<double> k = bits_as<Vec<double>>(exponent + bits_as<int64_t>(K::kRound)) - K::kRound;
  const Vec<double> low = lost * scale;
  const Vec<double> f = (m - 1.0) + low;
  const Vec<double> rest = low - (f - (m - 1.0));
  const Vec<double> s = f / (f + 2.0);
  const Vec<double> z = s * s;
  const Vec<double> series = polynomial<double>(kL, z);
  const Vec<double> half_square = 0.5 * f * f;
  const Vec<double> tail = s * (half_square + z * series) + (k * K::kLn2Low + rest);
  const Vec<double> result = k * K::kLn2High - ((half_square - tail) - f);
  // Infinity and NaN come back as they are, and 0 gives -infinity.
  const Vec<double> special = v == 0.0 ? splat(-__builtin_inf()) : v;
  return v < __builtin_inf() && v > 0.0 ? result : special;
}

FUSED_CE_INLINE Vec<double> log(Vec<double> v) { return log_sum(v, Vec<double>{}); }

// log(1 + z) for z >= 0.
FUSED_CE_INLINE Vec<double> log1p(Vec<double> z) {
  const Vec<double> v = 1.0 + z;
  const Vec<double> lost = z >= 1.0 ? 1.0 - (v - z) : z - (v - 1.0);
  return log_sum(v, v < __builtin_inf() ? lost : Vec<double>{});
}

}  // namespace fused_ce::cpu::FUSED_CE_ISA
