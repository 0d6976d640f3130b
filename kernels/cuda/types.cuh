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

__device__ __forceinline__ void put(float* p, float x) { *p = x; }
__device__ __forceinline__ void put(double* p, double x) { *p = x; }
__device__ __forceinline__ void put(BFloat16* p, float x) { *p = __float2bfloat16_rn(x); }
__device__ __forceinline__ void put(Half* p, float x) { *p = __float2half_rn(x); }

// kN neighbouring values in registers. Read and written through one built-in vector type: a struct
// of sixteen bytes is split into smaller accesses on some architectures.
template <class S, int kN>
struct alignas(sizeof(S) * kN) Values {
  S v[kN];
};

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

template <class S, int kN>
__device__ __forceinline__ bool is_aligned(const S* p) {
  return reinterpret_cast<uintptr_t>(p) % (sizeof(S) * kN) == 0;
}

// p must be aligned to kN values.
template <class S, int kN>
__device__ __forceinline__ Values<S, kN> load_values(const S* p) {
  Values<S, kN> values;
  if constexpr (kN == 1) {
    values.v[0] = *p;
  } else {
    using Word = typename WordOf<sizeof(S) * kN>::type;
    const Word word = *reinterpret_cast<const Word*>(p);
    memcpy(&values, &word, sizeof word);
  }
  return values;
}
template <class S, int kN>
__device__ __forceinline__ void store_values(S* p, const Values<S, kN>& values) {
  if constexpr (kN == 1) {
    *p = values.v[0];
  } else {
    using Word = typename WordOf<sizeof(S) * kN>::type;
    Word word;
    memcpy(&word, &values, sizeof word);
    store_word(reinterpret_cast<Word*>(p), word);
  }
}

// Value i of an array whose type is known only at run time.
template <class A>
__device__ inline A number_at(const void* p, DType type, int64_t i) {
  switch (type) {
    case DType::kFloat:
      return static_cast<A>(static_cast<const float*>(p)[i]);
    case DType::kDouble:
      return static_cast<A>(static_cast<const double*>(p)[i]);
    case DType::kBFloat16:
      return static_cast<A>(get(static_cast<const BFloat16*>(p)[i]));
    default:
      return static_cast<A>(get(static_cast<const Half*>(p)[i]));
  }
}
template <class A>
__device__ inline void put_number(void* p, DType type, int64_t i, A value) {
  switch (type) {
    case DType::kFloat:
      return put(static_cast<float*>(p) + i, static_cast<float>(value));
    case DType::kDouble:
      return put(static_cast<double*>(p) + i, static_cast<double>(value));
    case DType::kBFloat16:
      return put(static_cast<BFloat16*>(p) + i, static_cast<float>(value));
    default:
      return put(static_cast<Half*>(p) + i, static_cast<float>(value));
  }
}

}  // namespace fused_ce::cuda
