// SPDX-License-Identifier: BSD-3-Clause
// Storage types: how float, double, bfloat16 and float16 values enter and leave vectors of their
// accumulate type.
#pragma once

#include "vec.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

template <class S>
struct AccumulateOf {
  using type = float;
};
template <>
struct AccumulateOf<double> {
  using type = double;
};
template <class S>
using Accumulate = typename AccumulateOf<S>::type;

typedef uint16_t HalfBits
    __attribute__((vector_size(kVectorBytes / 2)));  // as many lanes as Vec<float>
using WordBits = Vec<uint32_t>;

inline Vec<float> load(const BFloat16* p) {
#if defined(__AVX512F__)
  const __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return bits_as<Vec<float>>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
#elif defined(__AVX2__)
  const __m128i h = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return bits_as<Vec<float>>(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
#elif defined(__aarch64__)
  return bits_as<Vec<float>>(vshll_n_u16(vld1_u16(&p->bits), 16));
#else
  HalfBits h;
  __builtin_memcpy(&h, p, sizeof(h));
  return bits_as<Vec<float>>(__builtin_convertvector(h, WordBits) << 16);
#endif
}

// The high halves of 32-bit words.
inline HalfBits high_halves(WordBits w) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  const __m256i kHigh =
      _mm256_setr_epi8(2, 3, 6, 7, 10, 11, 14, 15, -1, -1, -1, -1, -1, -1, -1, -1, 2, 3, 6, 7, 10,
                       11, 14, 15, -1, -1, -1, -1, -1, -1, -1, -1);
  const __m256i packed = _mm256_shuffle_epi8(bits_as<__m256i>(w), kHigh);
  return bits_as<HalfBits>(_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08)));
#else
  return __builtin_convertvector(w >> 16, HalfBits);
#endif
}

#if defined(__AVX512BF16__)
// Flushes what is below the smallest normal number, 2^-126, to 0.
inline void store(BFloat16* p, Vec<float> v) {
  const __m256bh h = _mm512_cvtneps_pbh(v);
  __builtin_memcpy(p, &h, sizeof(h));
}
#else
inline void store(BFloat16* p, Vec<float> v) {
  const WordBits u = bits_as<WordBits>(v);
  const WordBits rounded = u + 0x7fffu + ((u >> 16) & 1u);  // to nearest, ties to even
  // of NaN all bits, which is a NaN
  const HalfBits h = high_halves(rounded | bits_as<WordBits>(v != v));
  __builtin_memcpy(p, &h, sizeof(h));
}
#endif

#if defined(__AVX512F__)
inline Vec<float> load(const Half* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline void store(Half* p, Vec<float> v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
#elif defined(__F16C__)
inline Vec<float> load(const Half* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline void store(Half* p, Vec<float> v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
#elif defined(__aarch64__)
inline Vec<float> load(const Half* p) {
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&p->bits)));
}
inline void store(Half* p, Vec<float> v) {
  vst1_u16(&p->bits, vreinterpret_u16_f16(vcvt_f16_f32(v)));
}
#else
inline Vec<float> load(const Half* p) {
  HalfBits h;
  __builtin_memcpy(&h, p, sizeof(h));
  const WordBits w = __builtin_convertvector(h, WordBits);
  // The exponent is rebiased by a multiplication, which normalises subnormals as well.
  const Vec<float> magnitude = bits_as<Vec<float>>((w & 0x7fffu) << 13) * 0x1p112f;
  const WordBits special = (w & 0x7c00u) == 0x7c00u ? WordBits{} + 0x7f800000u : WordBits{};
  return bits_as<Vec<float>>(bits_as<WordBits>(magnitude) | special | ((w & 0x8000u) << 16));
}
inline void store(Half* p, Vec<float> v) {
  const WordBits u = bits_as<WordBits>(v);
  const WordBits sign = (u >> 16) & 0x8000u;
  const WordBits a = u & 0x7fffffffu;
  // Below 2^-14 the sum with 0.5 leaves the subnormal's integer, rounded to even, in the low bits.
  const WordBits subnormal = bits_as<WordBits>(bits_as<Vec<float>>(a) + 0.5f) - 0x3f000000u;
  const WordBits normal = (a - 0x38000000u + 0xfffu + ((a >> 13) & 1u)) >> 13;
  const WordBits overflow = a > 0x7f800000u ? WordBits{} + 0x7e00u : WordBits{} + 0x7c00u;
  const WordBits finite = a < 0x38800000u ? subnormal : normal;
  const HalfBits h =
      __builtin_convertvector((a >= 0x477ff000u ? overflow : finite) | sign, HalfBits);
  __builtin_memcpy(p, &h, sizeof(h));
}
#endif

// The first n of a vector's lanes; the others take `fill` and are never read from memory.
template <class S>
inline Vec<Accumulate<S>> load_partial(const S* p, int n, Accumulate<S> fill) {
  using A = Accumulate<S>;
  S buffer[kLanes<A>] = {};
  for (int i = 0; i < n; ++i) buffer[i] = p[i];
  return iota<Int<A>>() < static_cast<Int<A>>(n) ? load(buffer) : splat(fill);
}

template <class S>
inline void store_partial(S* p, int n, Vec<Accumulate<S>> v) {
  S buffer[kLanes<Accumulate<S>>];
  store(buffer, v);
  for (int i = 0; i < n; ++i) p[i] = buffer[i];
}

#if defined(__AVX512F__)
inline Vec<float> load_partial(const float* p, int n, float fill) {
  return _mm512_mask_loadu_ps(splat(fill), static_cast<__mmask16>((1u << n) - 1), p);
}
inline void store_partial(float* p, int n, Vec<float> v) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), v);
}
template <class S>
  requires(sizeof(S) == 2)
inline Vec<float> load_partial(const S* p, int n, float fill) {
  const auto present = static_cast<__mmask16>((1u << n) - 1);
  const __m256i bits = _mm256_maskz_loadu_epi16(present, p);
  return _mm512_mask_mov_ps(splat(fill), present, load(reinterpret_cast<const S*>(&bits)));
}
template <class S>
  requires(sizeof(S) == 2)
inline void store_partial(S* p, int n, Vec<float> v) {
  __m256i bits;
  store(reinterpret_cast<S*>(&bits), v);
  _mm256_mask_storeu_epi16(p, static_cast<__mmask16>((1u << n) - 1), bits);
}
#endif

// Stores past the caches, which spares reading what is overwritten; p is aligned to what a vector
// takes up. The values are seen by other threads after fence().
#if defined(__AVX512F__)
inline void stream(float* p, Vec<float> v) { _mm512_stream_ps(p, v); }
inline void stream(double* p, Vec<double> v) { _mm512_stream_pd(p, v); }
template <class S>
  requires(sizeof(S) == 2)
inline void stream(S* p, Vec<float> v) {
  __m256i bits;
  store(reinterpret_cast<S*>(&bits), v);
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), bits);
}
inline void fence() { _mm_sfence(); }
#elif defined(__AVX2__)
inline void stream(float* p, Vec<float> v) { _mm256_stream_ps(p, v); }
inline void stream(double* p, Vec<double> v) { _mm256_stream_pd(p, v); }
template <class S>
  requires(sizeof(S) == 2)
inline void stream(S* p, Vec<float> v) {
  __m128i bits;
  store(reinterpret_cast<S*>(&bits), v);
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), bits);
}
inline void fence() { _mm_sfence(); }
#else
template <class S>
inline void stream(S* p, Vec<Accumulate<S>> v) {
  store(p, v);
}
inline void fence() {}
#endif

// Lanes before the first address of p on that can be streamed to.
template <class S>
inline int lanes_to_alignment(const S* p) {
  constexpr uintptr_t kBytes = kLanes<Accumulate<S>> * sizeof(S);
  return static_cast<int>(-reinterpret_cast<uintptr_t>(p) % kBytes / sizeof(S));
}

// n values of the accumulate type to a storage type. `streamed`: past the caches, as much as is
// aligned.
template <class S>
inline void convert(const Accumulate<S>* from, S* to, int n, bool streamed) {
  constexpr int kW = kLanes<Accumulate<S>>;
  if (n < kW) return store_partial(to, n, load_partial(from, n, Accumulate<S>(0)));
  int j = 0;
  if (streamed) {
    j = lanes_to_alignment(to);
    if (j > 0) store(to, load(from));
    for (; j + kW <= n; j += kW) stream(to + j, load(from + j));
  } else {
    for (; j + kW <= n; j += kW) store(to + j, load(from + j));
  }
  if (j < n) store(to + n - kW, load(from + n - kW));  // some lanes once more
}

// Single values.
template <class S>
inline Accumulate<S> get(const S* p) {
  return load_partial(p, 1, Accumulate<S>(0))[0];
}
inline float get(const float* p) { return *p; }
inline double get(const double* p) { return *p; }
inline float get(const BFloat16* p) { return bits_as<float>(static_cast<uint32_t>(p->bits) << 16); }

#if defined(__F16C__)
inline float get(const Half* p) { return _cvtsh_ss(p->bits); }
#endif

template <class S>
inline void put(S* p, Accumulate<S> value) {
  store_partial(p, 1, splat(value));
}

// Losses may be smaller than the smallest normal number, which AVX-512's instruction flushes.
inline void put(BFloat16* p, float value) {
  const uint32_t u = bits_as<uint32_t>(value);
  const uint32_t rounded = u + 0x7fffu + ((u >> 16) & 1u);  // to nearest, ties to even
  p->bits = value == value ? static_cast<uint16_t>(rounded >> 16) : 0xffff;
}

}  // namespace fused_ce::cpu::FUSED_CE_ISA
