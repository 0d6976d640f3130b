// SPDX-License-Identifier: BSD-3-Clause
// One vector of the instruction set this unit is compiled for, on the compiler's vector extensions,
// so that the same text serves SSE2, AVX2, AVX-512, NEON and any other target of GCC or Clang.
//
// Every header of the kernels lives in namespace FUSED_CE_ISA, which differs from unit to unit, and
// includes nothing of the standard library but fixed-width integers: a shared inline function
// compiled for AVX-512 could be the copy that the linker keeps, and crash a machine without it.
#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(__AVX2__) || defined(__AVX512F__) || defined(__F16C__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

// Whether there is a fused multiply-add.
#if defined(__FMA__) || defined(__aarch64__)
#define FUSED_CE_FMA
#endif

// What runs once a vector: gcc leaves an exp out of line where it is used often, and then keeps
// every vector of the caller in memory across the call.
#define FUSED_CE_INLINE inline __attribute__((always_inline))
// What runs once for many rows: inlined into each loop, it would be a tenth of all code.
#define FUSED_CE_OUT_OF_LINE inline __attribute__((noinline))

namespace fused_ce::cpu::FUSED_CE_ISA {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;
#endif

template <class T>
struct VecOf {};  // storage types have none of their own
#define FUSED_CE_VECTOR_OF(T)                                  \
  template <>                                                  \
  struct VecOf<T> {                                            \
    typedef T type __attribute__((vector_size(kVectorBytes))); \
  };
FUSED_CE_VECTOR_OF(float)
FUSED_CE_VECTOR_OF(double)
FUSED_CE_VECTOR_OF(int32_t)
FUSED_CE_VECTOR_OF(int64_t)
FUSED_CE_VECTOR_OF(uint32_t)
FUSED_CE_VECTOR_OF(uint64_t)
#undef FUSED_CE_VECTOR_OF
template <class T>
using Vec = typename VecOf<T>::type;

template <class T>
inline constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

// The integer as wide as a floating type: its lanes hold bits, masks and class indices.
template <class T>
struct IntOf;
template <>
struct IntOf<float> {
  using type = int32_t;
};
template <>
struct IntOf<double> {
  using type = int64_t;
};
template <class T>
using Int = typename IntOf<T>::type;

// 0, 1, ... n - 1 as a parameter pack; std's is a template that units of other instruction sets
// share.
template <size_t... kIndex>
struct IndexSequence {};
template <size_t kN, size_t... kIndex>
struct MakeIndexSequence : MakeIndexSequence<kN - 1, kN - 1, kIndex...> {};
template <size_t... kIndex>
struct MakeIndexSequence<0, kIndex...> {
  using type = IndexSequence<kIndex...>;
};

template <class To, class From>
inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}

template <class T>
inline Vec<T> splat(T value) {
  return Vec<T>{} + value;  // -0.0 becomes 0.0: no caller minds
}

// The sign of a floating number. All bits but it are the largest integer as wide.
template <class T>
inline constexpr Int<T> kSignBit = static_cast<Int<T>>(Int<T>{1} << (8 * sizeof(T) - 1));
template <class T>
inline Vec<T> magnitude(Vec<T> v) {
  return bits_as<Vec<T>>(bits_as<Vec<Int<T>>>(v) & ~kSignBit<T>);
}

// a b - c, rounded once where the processor can. (A compiler contracts the two operations only
// where it finds them in one basic block, and what is to cancel must be rounded alike everywhere.)
#if defined(__AVX512F__)
inline Vec<float> times_minus(Vec<float> a, Vec<float> b, Vec<float> c) {
  return _mm512_fmsub_ps(a, b, c);
}
inline Vec<double> times_minus(Vec<double> a, Vec<double> b, Vec<double> c) {
  return _mm512_fmsub_pd(a, b, c);
}
#elif defined(__FMA__)
inline Vec<float> times_minus(Vec<float> a, Vec<float> b, Vec<float> c) {
  return _mm256_fmsub_ps(a, b, c);
}
inline Vec<double> times_minus(Vec<double> a, Vec<double> b, Vec<double> c) {
  return _mm256_fmsub_pd(a, b, c);
}
#elif defined(__aarch64__)
inline Vec<float> times_minus(Vec<float> a, Vec<float> b, Vec<float> c) {
  return vfmaq_f32(-c, a, b);
}
inline Vec<double> times_minus(Vec<double> a, Vec<double> b, Vec<double> c) {
  return vfmaq_f64(-c, a, b);
}
#else
template <class V>
inline V times_minus(V a, V b, V c) {
  return a * b - c;
}
#endif

template <class T>
inline Vec<T> load(const T* p) {
  Vec<T> v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

template <class T>
inline void store(T* p, Vec<T> v) {
  __builtin_memcpy(p, &v, sizeof(v));
}

// As many values as a vector has lanes of double, of a type that may be narrower.
template <class T>
struct NarrowOf {
  typedef T type __attribute__((vector_size(kLanes<double> * sizeof(T))));
};
template <class T>
inline typename NarrowOf<T>::type load_narrow(const T* p) {
  typename NarrowOf<T>::type v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
#if defined(__AVX512F__)
inline void store_narrow(float* p, Vec<double> v) { _mm256_storeu_ps(p, _mm512_cvtpd_ps(v)); }
#endif
template <class T, class V>
inline void store_narrow(T* p, V v) {
  const auto narrow = __builtin_convertvector(v, typename NarrowOf<T>::type);
  __builtin_memcpy(p, &narrow, sizeof(narrow));
}

// Integers of a narrower type, or of int64_t itself, as lanes of int64_t. (gcc 12 takes these
// conversions apart.)
template <class T>
inline Vec<int64_t> widen_integers(typename NarrowOf<T>::type v) {
#if defined(__AVX512F__)
  constexpr bool kSigned = static_cast<T>(-1) < static_cast<T>(0);
  if constexpr (sizeof(T) == 1) {
    const __m128i low = _mm_cvtsi64_si128(bits_as<long long>(v));
    return bits_as<Vec<int64_t>>(kSigned ? _mm512_cvtepi8_epi64(low) : _mm512_cvtepu8_epi64(low));
  }
  if constexpr (sizeof(T) == 2)
    return bits_as<Vec<int64_t>>(_mm512_cvtepi16_epi64(bits_as<__m128i>(v)));
  if constexpr (sizeof(T) == 4)
    return bits_as<Vec<int64_t>>(_mm512_cvtepi32_epi64(bits_as<__m256i>(v)));
#elif defined(__AVX2__)
  constexpr bool kSigned = static_cast<T>(-1) < static_cast<T>(0);
  if constexpr (sizeof(T) == 1) {
    const __m128i low = _mm_cvtsi32_si128(bits_as<int>(v));
    return bits_as<Vec<int64_t>>(kSigned ? _mm256_cvtepi8_epi64(low) : _mm256_cvtepu8_epi64(low));
  }
  if constexpr (sizeof(T) == 2)
    return bits_as<Vec<int64_t>>(_mm256_cvtepi16_epi64(_mm_cvtsi64_si128(bits_as<long long>(v))));
  if constexpr (sizeof(T) == 4)
    return bits_as<Vec<int64_t>>(_mm256_cvtepi32_epi64(bits_as<__m128i>(v)));
#elif defined(__aarch64__)
  if constexpr (sizeof(T) == 4) return bits_as<Vec<int64_t>>(vmovl_s32(bits_as<int32x2_t>(v)));
#endif
  return __builtin_convertvector(v, Vec<int64_t>);
}

template <class T>
inline Vec<T> iota() {
  Vec<T> v{};
  for (int i = 0; i < kLanes<T>; ++i) v[i] = static_cast<T>(i);
  return v;
}

// Lane i of the result is v[from[i]].
template <class V, class I>
FUSED_CE_INLINE V permute(V v, I from) {
#if defined(__clang__)
  V result;
  for (size_t i = 0; i < sizeof(V) / sizeof(v[0]); ++i) result[i] = v[from[i]];
  return result;
#else
  return __builtin_shuffle(v, from);
#endif
}

// The larger of v and `low`. NaN in v survives: x86's instructions return the second operand for
// it, and a comparison is false.
template <class T>
inline Vec<T> at_least(Vec<T> v, Vec<T> low) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return _mm512_max_ps(low, v);
  else
    return _mm512_max_pd(low, v);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return _mm256_max_ps(low, v);
  else
    return _mm256_max_pd(low, v);
#else
  return v < low ? low : v;
#endif
}

template <class T>
inline Vec<T> at_most(Vec<T> v, Vec<T> high) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return _mm512_min_ps(high, v);
  else
    return _mm512_min_pd(high, v);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return _mm256_min_ps(high, v);
  else
    return _mm256_min_pd(high, v);
#else
  return v > high ? high : v;
#endif
}

// 0 in the lanes of a mask. (gcc makes a selection of `v & ~lanes`.)
template <class V, class M>
FUSED_CE_INLINE V clear_in(M lanes, V v) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  return bits_as<V>(_mm256_andnot_ps(bits_as<__m256>(lanes), bits_as<__m256>(v)));
#else
  return bits_as<V>(bits_as<M>(v) & ~lanes);
#endif
}

// v in the lanes of a mask, where `before` is 0; and `before` in the others. (A selection would
// compete with products for AMD's two multipliers.)
template <class V, class M>
FUSED_CE_INLINE V put_in(V before, M lanes, V v) {
#if defined(__AVX512F__)
  return lanes ? v : before;
#else
  return bits_as<V>(bits_as<M>(before) | (bits_as<M>(v) & lanes));
#endif
}

template <class V>
inline V larger(V a, V b) {
  return b > a ? b : a;
}
template <class T>
inline T smaller(T a, T b) {
  return b < a ? b : a;
}

// Combines the lanes of a vector in pairs: the depth of the tree, and not the number of lanes, is
// what a row waits for.
template <class T, class V, class F>
inline T fold_lanes(V v, F combine) {
  if constexpr (sizeof(V) == 16) {
    T result = v[0];
    for (size_t i = 1; i < sizeof(V) / sizeof(T); ++i) result = combine(result, v[i]);
    return result;
  } else {
    typedef T Half __attribute__((vector_size(sizeof(V) / 2)));
    Half halves[2];
    __builtin_memcpy(halves, &v, sizeof(v));
    return fold_lanes<T, Half>(combine(halves[0], halves[1]), combine);
  }
}

// Whether a comparison holds in every lane.
template <class Mask>
inline bool all_lanes(Mask mask) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask(bits_as<__m512i>(mask)) == 0xffff;
#elif defined(__AVX2__)
  return _mm256_movemask_epi8(bits_as<__m256i>(mask)) == -1;
#else
  return fold_lanes<int64_t>(bits_as<Vec<int64_t>>(mask), [](auto a, auto b) { return a & b; }) ==
         -1;
#endif
}

template <class T>
inline T max_lane(Vec<T> v) {
  return fold_lanes<T>(v, [](auto a, auto b) { return larger(a, b); });
}

// Half a vector of floats, and the two halves of a whole one, widened. (gcc 12 takes conversions to
// wider lanes apart: a store, six conversions and insertions for what is one instruction.)
typedef float HalfOfFloats __attribute__((vector_size(kVectorBytes / 2)));
inline Vec<double> widen_half(HalfOfFloats v) {
#if defined(__AVX512F__)
  return _mm512_cvtps_pd(v);
#elif defined(__AVX2__)
  return _mm256_cvtps_pd(v);
#elif defined(__aarch64__)
  return vcvt_f64_f32(v);
#else
  return __builtin_convertvector(v, Vec<double>);
#endif
}
struct Widened {
  Vec<double> low, high;
};
inline Widened widen(Vec<float> v) {
  HalfOfFloats halves[2];
  __builtin_memcpy(halves, &v, sizeof(v));
  return {widen_half(halves[0]), widen_half(halves[1])};
}

}  // namespace fused_ce::cpu::FUSED_CE_ISA
