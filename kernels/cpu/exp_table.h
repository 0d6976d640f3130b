// SPDX-License-Identifier: BSD-3-Clause
// exp of float by a table that a register holds: a chain of dependent instructions half as long as
// a polynomial's alone (Tang, ACM TOMS 15, 1989). What that gains is for loops whose rows have more
// sums than one: they are held up by what waits in the processor's schedulers, and each sum waits
// for the exponential. Bound, swept by tests/cpp/kernel_math_test.cpp: 0.65 ulp of normal
// results; AVX2: 1.5 below 2^-121, where the product with r is below the normal numbers. Below
// 2^-126, some number there.
#pragma once

#include "math.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

#if defined(__AVX512F__)
template <class V>
FUSED_CE_INLINE V exp_by_table(V d, const Power<float>& power) {
  using K = ExpConstants<float>;
  constexpr float kRound = 0x1.8p19f;  // added, it rounds to sixteenths, which the low bits count
  // e^r = 1 + r u(r) on |r| <= ln(2)/32, relative error 2^-29.1
  constexpr float kU[] = {1, 0x1.000236p-1f, 0x1.5555fcp-3f};
  // 2^(k/16)
  constexpr Vec<float> kPowers = {0x1p0f,        0x1.0b5586p0f, 0x1.172b84p0f, 0x1.2387a6p0f,
                                  0x1.306fep0f,  0x1.3dea64p0f, 0x1.4bfdaep0f, 0x1.5ab07ep0f,
                                  0x1.6a09e6p0f, 0x1.7a1148p0f, 0x1.8ace54p0f, 0x1.9c4918p0f,
                                  0x1.ae89fap0f, 0x1.c199bep0f, 0x1.d5818ep0f, 0x1.ea4afap0f};
  // what their rounding leaves
  constexpr Vec<float> kRests = {0,
                                 0x1.9f3122p-25f,
                                 -0x1.c15742p-27f,
                                 0x1.ceac48p-25f,
                                 0x1.4636e2p-25f,
                                 0x1.824684p-25f,
                                 -0x1.593abcp-25f,
                                 -0x1.5bd5ecp-27f,
                                 0x1.9fcef4p-26f,
                                 -0x1.829fdp-25f,
                                 0x1.15506ep-27f,
                                 0x1.51f848p-27f,
                                 -0x1.a94b14p-26f,
                                 -0x1.3d56b2p-27f,
                                 -0x1.822dbcp-27f,
                                 0x1.52486cp-27f};
  const V counts = d * 1.44269504f + kRound;
  const V n = counts - kRound;
  const V r = (d - n * K::kLn2High) - n * K::kLn2Low;
  const auto power_of = [](Vec<float> v) {
    return Vec<float>(_mm512_permutexvar_ps(__m512i(bits_as<Vec<int32_t>>(v)), kPowers));
  };
  const auto rest_of = [](Vec<float> v) {
    return Vec<float>(_mm512_permutexvar_ps(__m512i(bits_as<Vec<int32_t>>(v)), kRests));
  };
  const V p = each(power_of, counts);
  return scaled(polynomial(kU, r) * (p * r + each(rest_of, counts)) + p, n - power.c);
}
#elif defined(__AVX2__)
template <class V>
FUSED_CE_INLINE V exp_by_table(V d, const Power<float>& power) {
  using K = ExpConstants<float>;
  constexpr float kRound = 0x1.8p20f;  // added, it rounds to eighths, which the low bits count
  // e^r = 1 + r u(r) on |r| <= ln(2)/16, relative error 2^-32.2
  constexpr float kU[] = {1, 0x1p-1f, 0x1.555c76p-3f, 0x1.554842p-5f};
  // The bits of 2^(k/8), less those of 1, and less k where the count's whole part goes.
  constexpr Vec<int32_t> kPowers = {0,          -0x0046a3e, -0x007c810, -0x00a0129,
                                    -0x00afb0d, -0x00a98d6, -0x008bb03, -0x0053f39};
  // what the rounding of 2^(k/8) leaves, over it
  constexpr Vec<float> kRests = {0,
                                 -0x1.9c0c22p-27f,
                                 0x1.125002p-25f,
                                 -0x1.0a3552p-25f,
                                 0x1.26055cp-26f,
                                 0x1.67a1cap-28f,
                                 -0x1.f9c306p-27f,
                                 -0x1.a5217cp-28f};
  const Vec<float> round = power.round - (K::kRound - kRound);
  const V counts = d * 1.44269504f + round;
  const V n = counts - round;
  const V r = (d - n * K::kLn2High) - n * K::kLn2Low;
  const auto power_of = [](Vec<float> v) {
    const auto count = bits_as<Vec<int32_t>>(v);
    const __m256i part = _mm256_permutevar8x32_epi32(__m256i(kPowers), __m256i(count));
    return bits_as<Vec<float>>(Vec<int32_t>(part) + (count << (K::kMantissaBits - 3)));
  };
  const auto rest_of = [](Vec<float> v) {
    return Vec<float>(_mm256_permutevar8x32_ps(__m256(kRests), __m256i(bits_as<Vec<int32_t>>(v))));
  };
  const V p = each(power_of, counts);
  return polynomial(kU, r) * (p * (r + each(rest_of, counts))) + p;
}
#endif

// e^d 2^-c for d of lowest(power) and more, or NaN; where the result is too large, it may be
// anything. kShort: as exp_scaled has it.
template <class T, bool kShort, class V>
FUSED_CE_INLINE V exp_above(V d, const Power<T>& power) {
#if defined(__AVX2__)
  if constexpr (sizeof(T) == sizeof(float) && !kShort) return exp_by_table(d, power);
#endif
  return exp_scaled<T, kShort, /*kIsAbove=*/true>(d, power);
}

}  // namespace fused_ce::cpu::FUSED_CE_ISA
