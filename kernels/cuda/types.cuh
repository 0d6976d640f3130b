// SPDX-License-Identifier: BSD-3-Clause
// The four storage types: what is computed in, and how values are read and written, one by one and
// 128 bits at a time.
#pragma once

#include "../problem.h"
#include "platform.cuh"

namespace fused_ce::cuda {

using BFloat16 = __nv_bfloat16;
using Half = __half;

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

template <class S>
inline constexpr bool kIsHalf = sizeof(S) == 2;

// Values in 128 bits.
template <class S>
inline constexpr int kVector = 16 / static_cast<int>(sizeof(S));

__device__ __forceinline__ float get(float x) { return x; }
__device__ __forceinline__ double get(double x) { return x; }
__device__ __forceinline__ float get(BFloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float get(Half x) { return __half2float(x); }

// The logit whose exponential is 0.
template <class S>
__device__ __forceinline__ S no_logit() {
  return -static_cast<S>(__builtin_huge_val());
}
template <>
__device__ __forceinline__ BFloat16 no_logit() {
  return __ushort_as_bfloat16(0xff80);
}
template <>
__device__ __forceinline__ Half no_logit() {
  return __ushort_as_half(0xfc00);
}

__device__ __forceinline__ void put(float* p, float x) { *p = x; }
__device__ __forceinline__ void put(double* p, double x) { *p = x; }
__device__ __forceinline__ void put(BFloat16* p, float x) { *p = __float2bfloat16_rn(x); }
__device__ __forceinline__ void put(Half* p, float x) { *p = __float2half_rn(x); }

// kN neighbouring values in registers. Read and written through a built-in vector type: a struct of
// sixteen bytes is split into smaller accesses on some architectures.
template <class S, int kN>
struct alignas(sizeof(S) * kN) Values {
  S v[kN];
};

// Bytes of one access; values of more than 128 bits take several.
template <class S, int kN>
inline constexpr int kAccess = sizeof(S) * kN < 16 ? sizeof(S) * kN : 16;

template <int kBytes>
struct WordOf;
template <>
struct WordOf<16> {
  using type = uint4;
};
template <>
struct WordOf<8> {
  using type = uint2;
};
template <>
struct WordOf<4> {
  using type = uint1;
};
template <class S, int kN>
using Word = typename WordOf<kAccess<S, kN>>::type;

template <class S, int kN>
__device__ __forceinline__ bool is_aligned(const S* p) {
  return kN == 1 || reinterpret_cast<uintptr_t>(p) % kAccess<S, kN> == 0;
}

// The values of one access, and back. Who keeps an access in its word has fewer registers in use
// than values of half types would take.
template <class S, int kN>
__device__ __forceinline__ Values<S, kN> values_of(const Word<S, kN>& word) {
  Values<S, kN> values;
  memcpy(&values, &word, sizeof values);
  return values;
}
template <class S, int kN>
__device__ __forceinline__ Word<S, kN> word_of(const Values<S, kN>& values) {
  Word<S, kN> word;
  memcpy(&word, &values, sizeof word);
  return word;
}

// p must be aligned.
template <class S, int kN>
__device__ __forceinline__ Values<S, kN> load_values(const S* p) {
  Values<S, kN> values;
  if constexpr (kN == 1) {
    values.v[0] = *p;
  } else {
    constexpr int kWords = sizeof values / kAccess<S, kN>;
    Word<S, kN> words[kWords];
#pragma unroll
    for (int i = 0; i < kWords; ++i)
      words[i] = load_word(reinterpret_cast<const Word<S, kN>*>(p) + i);
    memcpy(&values, words, sizeof values);
  }
  return values;
}
template <class S, int kN>
__device__ __forceinline__ void store_values(S* p, const Values<S, kN>& values) {
  if constexpr (kN == 1) {
    *p = values.v[0];
  } else {
    static_assert(sizeof values == kAccess<S, kN>);
    store_word(reinterpret_cast<Word<S, kN>*>(p), word_of(values));
  }
}

}  // namespace fused_ce::cuda
