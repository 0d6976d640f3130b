// SPDX-License-Identifier: BSD-3-Clause
// exp and log, vectorised. Coefficients: minimax (Remez) fits in 200-bit arithmetic, rounded to the
// working type. Stated bounds, swept by tests/cpp/kernel_math_test.cpp: exp 1 ulp (float) and 1.1
// ulp (double) below the last power of two before overflow, log and log1p 1 ulp (double). The short
// forms of double, for rows whose results are rounded to float: relative errors of 2^-34 (exp) and
// 2^-36 (log1p).
#pragma once

#include "pair.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

template <class T>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  static constexpr float kLargest = 0x1.fffffep127f;
  static constexpr float kLow = -512;         // AVX-512: below, 2^-c * e^d is 0 for every c in use
  static constexpr float kRound = 0x1.8p23f;  // adding and taking it away rounds to an integer
  static constexpr int kMantissaBits = 23, kBias = 127;
  static constexpr float kLn2High = 0x1.62ep-1f;  // 12 bits: n * kLn2High is exact for |n| < 2^12
  static constexpr float kLn2Low = 0x1.0bfbe8p-15f;
  // e^r = 1 + r + r^2 q(r) on |r| <= ln(2)/2, relative error 2^-28.2
  static constexpr float kQ[] = {0x1.fffffcp-2f, 0x1.555492p-3f, 0x1.5558f2p-5f, 0x1.1239e2p-7f,
                                 0x1.6a242cp-10f};
  // the same, relative error 2^-23.1
  static constexpr float kQShort[] = {0x1.fffdfcp-2f, 0x1.5557aep-3f, 0x1.5729fp-5f,
                                      0x1.106284p-7f};
};

template <>
struct ExpConstants<double> {
  static constexpr double kLargest = 0x1.fffffffffffffp1023;
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
  // relative error 2^-34.1
  static constexpr double kQShort[] = {0.500000006803694981,   0.166666658645888881,
                                       0.0416662936355672470,  0.00833349767527644604,
                                       0.00139447585142456073, 0.000197902430824908400};
};

// k[0] + k[1] r + k[2] r^2 ... A long one as two of half the length in r^2, which are computed side
// by side.
template <class T, size_t kN, class V>
FUSED_CE_INLINE V polynomial(const T (&k)[kN], V r) {
  constexpr size_t kStep = kN < 7 ? 1 : 2;
  const V power = kStep == 1 ? r : r * r;
  V sums[2] = {V{} + k[kN - 1], V{} + k[kN - kStep]};
  for (size_t i = kN - kStep; i-- > 0;) {
    V& sum = sums[(kN - 1 - i) % kStep];
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
  FUSED_CE_INLINE Power permuted(Vec<Int<T>> from) const { return {permute(c, from)}; }
};
#else
template <class T>
struct Power {
  Vec<T> low, high;  // arguments from which on the product is 0 and infinity
  Vec<T> round;  // added, it rounds to an integer whose low bits are the product's exponent field
  static FUSED_CE_INLINE Power of(Vec<T> c) {
    using K = ExpConstants<T>;
    constexpr T kLn2 = T(0.6931471805599453094);
    return of((c - T(K::kBias)) * kLn2, (K::kRound + T(K::kBias)) - c);
  }
  FUSED_CE_INLINE Power permuted(Vec<Int<T>> from) const {
    return of(permute(low, from), permute(round, from));
  }

 private:
  static FUSED_CE_INLINE Power of(Vec<T> low, Vec<T> round) {
    using K = ExpConstants<T>;
    constexpr T kLn2 = T(0.6931471805599453094);
    return {low, low + T(2 * K::kBias + 1) * kLn2, round};
  }
};
#endif

// What e^d 2^-c is 0 of.
template <class T>
FUSED_CE_INLINE Vec<T> lowest(const Power<T>& power) {
#if defined(__AVX512F__)
  (void)power;
  return splat(ExpConstants<T>::kLow);
#else
  return power.low;
#endif
}

#if defined(__AVX512F__)
// v * 2^floor(n)
FUSED_CE_INLINE Vec<float> scale(Vec<float> v, Vec<float> n) { return _mm512_scalef_ps(v, n); }
FUSED_CE_INLINE Vec<double> scale(Vec<double> v, Vec<double> n) { return _mm512_scalef_pd(v, n); }
template <class V>
FUSED_CE_INLINE V scaled(V v, V n) {
  return each([](auto x, auto y) { return scale(x, y); }, v, n);
}

// e^d * 2^-c with fewer instructions: 2^t with t = d log2(e) - c. Roundings of t and of log2(e)
// cost 2^-24 and 2^-26 of t: relative error 2^-22 + |d| 2^-23. Both instructions have the limits
// right: t of -inf and inf gives 0 and inf.
template <class V>
FUSED_CE_INLINE V exp_half(V d, Vec<float> c) {
  // 2^f = 1 + f q(f) on [0, 1), relative error 2^-23.3
  constexpr float kQ[] = {0x1.62e4bap-1f, 0x1.ebdb56p-3f, 0x1.c91ce6p-5f, 0x1.277854p-7f,
                          0x1.e97502p-10f};
  constexpr int kRoundDown = 0x09;  // imm8 of VREDUCEPS: to an integer, towards -inf, quietly
  const V t = d * 1.44269504f - c;
  const V f = each([](Vec<float> v) { return Vec<float>(_mm512_reduce_ps(v, kRoundDown)); }, t);
  return scaled(polynomial(kQ, f) * f + 1.0f, t);
}
#endif

// Masks that are set nowhere, and the factor 1.
struct Nowhere {};
template <class M>
inline constexpr bool kIsNowhere = false;
template <>
inline constexpr bool kIsNowhere<Nowhere> = true;
struct One {};
template <class F>
inline constexpr bool kIsOne = false;
template <>
inline constexpr bool kIsOne<One> = true;

// factor * e^d * 2^-c for integer-valued c; relative error of the exponential 1 ulp. Where e^d 2^-c
// is below the smallest normal number the result is 0 (AVX-512: or the subnormal number); where it
// is past the largest, infinity (with a factor, or for d of 2^22 and more on AVX-512, perhaps NaN).
// The argument is reduced by Cody and Waite's two-part ln 2 (Software Manual for the Elementary
// Functions, 1980), which needs no fused multiply-add to be exact; taking the reference out as an
// integer power of two costs no rounding at all.
//
// kShort: for results of the next narrower type. Of float, for logits of a half type, near whose
// own precision a relative error of 2^-22 + |d| 2^-23 is nothing; of double, for numbers of float
// rows.
//
// V: a vector, or a pair of them. `out`, masks: the lanes whose result is 0 (of NaN perhaps NaN).
// kIsAbove: d is at least lowest(power), or NaN.
template <class T, bool kShort = false, bool kIsAbove = false, class V, class F = One,
          class M = Nowhere>
FUSED_CE_INLINE V exp_scaled(V d, const Power<T>& power, F factor = {}, M out = {}) {
  using K = ExpConstants<T>;
  constexpr T kLog2E = T(1.4426950408889634074);
#if defined(__AVX512F__)
  if constexpr (!kIsNowhere<M>) {
    constexpr T kNone = -static_cast<T>(__builtin_inf());
    d = each([](Vec<T> v, auto lanes) { return lanes ? splat(kNone) : v; }, d, out);
  }
  if constexpr (kShort && sizeof(T) == 4 && kIsOne<F>) return exp_half(d, power.c);
  if constexpr (kShort && sizeof(T) == 4 && !kIsOne<F>) return exp_half(d, power.c) * factor;
  if constexpr (!kIsAbove) d = each([](Vec<T> v) { return at_least<T>(v, splat(K::kLow)); }, d);
  const V n = (d * kLog2E + K::kRound) - K::kRound;
#else
  if constexpr (!kIsAbove) d = each([&](Vec<T> v) { return at_least<T>(v, power.low); }, d);
  d = each([&](Vec<T> v) { return at_most<T>(v, power.high); }, d);
  const V rounded = d * kLog2E + power.round;
  const V n = rounded - power.round;
#endif
#if defined(FUSED_CE_FMA)
  V r, q;
  if constexpr (kShort) {
    r = d - n * T(0.6931471805599453094);
    q = polynomial(K::kQShort, r);
  } else {
    r = (d - n * K::kLn2High) - n * K::kLn2Low;
    q = polynomial(K::kQ, r);
  }
  const V rest = (q * r + T(1)) * r;
#else
  const V r = (d - n * K::kLn2High) - n * K::kLn2Low;
  const V rest = polynomial(K::kQ, r) * r * r + r;
#endif
#if defined(__AVX512F__)
  const auto times_power = [](auto v, V power_of_two) __attribute__((always_inline)) {
    return each([](Vec<T> x, Vec<T> n) { return scale(x, n); }, v, power_of_two);
  };
  const V exponent = n - power.c;
#else
  const auto power_of = [](Vec<T> v, auto lanes) {
    const Vec<Int<T>> bits = bits_as<Vec<Int<T>>>(v) << K::kMantissaBits;
    // A selection would compete with the products for AMD's two multipliers.
    if constexpr (kIsNowhere<decltype(lanes)>)
      return bits_as<Vec<T>>(bits);
    else
      return clear_in(lanes, bits_as<Vec<T>>(bits));
  };
  const auto times_power = [](auto v, V power_of_two)
                               __attribute__((always_inline)) { return v * power_of_two; };
  const V exponent = each(power_of, rounded, out);
#endif
  if constexpr (kIsOne<F>) {
    return times_power(rest + T(1), exponent);
  } else {
    // The factor meets the power of two, which is there long before the polynomial, and both take
    // part in the last addition: the product is rounded once, and not twice.
    const V scaled_factor = times_power(factor, exponent);
    return rest * scaled_factor + scaled_factor;
  }
}

// v = 2^k (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)): the integer k, for normal v.
FUSED_CE_INLINE Vec<int64_t> exponent_of(Vec<double> v) {
  constexpr int64_t kSqrtHalf = 0x3fe6a09e667f3bcd;
  return (bits_as<Vec<int64_t>>(v) - kSqrtHalf) >> 52;
}

// log(2^k (1 + f + rest)) for a `rest` below f's last place, by log(1 + f) = log((1 + s) / (1 - s))
// = 2 s + s z L(z), z = s^2, s = f / (2 + f) (Tang, ACM TOMS 16, 1990).
template <bool kShort>
FUSED_CE_INLINE Vec<double> log_of_parts(Vec<int64_t> exponent, Vec<double> f, Vec<double> rest) {
  using K = ExpConstants<double>;
  // relative errors 2^-58.5 and 2^-37.5
  constexpr double kL[] = {0.666666666666673447, 0.399999999994142999, 0.285714287424787683,
                           0.222221985631265854, 0.181835648842726522, 0.153140353977747323,
                           0.147961097707526222};
  constexpr double kLShort[] = {0.666666656412928972, 0.400003362192629307, 0.285372383250864705,
                                0.235835688458228782};
  const Vec<double> k = bits_as<Vec<double>>(exponent + bits_as<int64_t>(K::kRound)) - K::kRound;
  const Vec<double> s = f / (f + 2.0);
  const Vec<double> z = s * s;
  if constexpr (kShort)
    return k * (K::kLn2High + K::kLn2Low) + s * (polynomial(kLShort, z) * z + 2.0);
  const Vec<double> half_square = 0.5 * f * f;
  const Vec<double> tail = s * (half_square + z * polynomial(kL, z)) + (k * K::kLn2Low + rest);
  return k * K::kLn2High - ((half_square - tail) - f);
}

// The same for v of sqrt(1/2) and more. (AVX2 has no arithmetic shift of 64 bits.)
FUSED_CE_INLINE Vec<int64_t> exponent_of_large(Vec<double> v) {
  constexpr int64_t kSqrtHalf = 0x3fe6a09e667f3bcd;
  return bits_as<Vec<int64_t>>(bits_as<Vec<uint64_t>>(bits_as<Vec<int64_t>>(v) - kSqrtHalf) >> 52);
}

// log(v) for normal v, 0 and infinity.
FUSED_CE_INLINE Vec<double> log(Vec<double> v) {
  const Vec<int64_t> k = exponent_of(v);
  const Vec<double> m = bits_as<Vec<double>>(bits_as<Vec<int64_t>>(v) - (k << 52));
  const Vec<double> result = log_of_parts<false>(k, m - 1.0, Vec<double>{});
  const Vec<double> special = v == 0.0 ? splat(-__builtin_inf()) : v;  // and NaN
  return v < __builtin_inf() && v > 0.0 ? result : special;
}

// log(1 + z) for z in [0, 2^1022], and infinity unless kFinite. f is found from z and not from the
// rounded 1 + z: the scaled z is exact, and its difference from 1 too, but for 1 + z just above
// sqrt(2).
template <bool kShort = false, bool kFinite = false>
FUSED_CE_INLINE Vec<double> log1p(Vec<double> z) {
  const Vec<double> v = 1.0 + z;
  const Vec<int64_t> k = exponent_of_large(v);
  const Vec<double> scale = bits_as<Vec<double>>((1023 - k) << 52);
  const Vec<double> from_one = scale - 1.0, scaled = z * scale;
  const Vec<double> f = scaled + from_one;
  const Vec<double> result = log_of_parts<kShort>(k, f, scaled - (f - from_one));
  if constexpr (kFinite) return result;
  return v < __builtin_inf() ? result : v;  // and NaN
}

}  // namespace fused_ce::cpu::FUSED_CE_ISA
