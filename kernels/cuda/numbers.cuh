// SPDX-License-Identifier: BSD-3-Clause
// Arrays whose type is known only at run time: losses, their gradients, class probabilities.
#pragma once

#include "types.cuh"

namespace fused_ce::cuda {

// f.template operator()<S>() with the storage type that `type` names.
template <class F>
__device__ __forceinline__ auto with_type(DType type, F f) {
  switch (type) {
    case DType::kFloat:
      return f.template operator()<float>();
    case DType::kDouble:
      return f.template operator()<double>();
    case DType::kBFloat16:
      return f.template operator()<BFloat16>();
    default:
      return f.template operator()<Half>();
  }
}

template <class A>
__device__ inline A number_at(const void* p, DType type, int64_t i) {
  return with_type(type,
                   [&]<class S>() { return static_cast<A>(get(static_cast<const S*>(p)[i])); });
}

template <class A>
__device__ inline void put_number(void* p, DType type, int64_t i, A value) {
  with_type(type,
            [&]<class S>() { put(static_cast<S*>(p) + i, static_cast<Accumulate<S>>(value)); });
}

// Those of the kN numbers i, i + stride, ... that are there: out[k] for k < last. Read at
// once where they are neighbours in memory and the first is aligned for it.
template <int kN, class A>
__device__ __forceinline__ void numbers_at(const void* p, DType type, int64_t i, int64_t stride,
                                           int last, A (&out)[kN]) {
  with_type(type, [&]<class S>() {
    const S* const from = static_cast<const S*>(p) + i;
    if (stride == 1 && last == kN && is_aligned<S, kN>(from)) {
      const Values<S, kN> values = load_values<S, kN>(from);
#pragma unroll
      for (int k = 0; k < kN; ++k) out[k] = static_cast<A>(get(values.v[k]));
    } else {
#pragma unroll
      for (int k = 0; k < kN; ++k) {
        out[k] = k < last ? static_cast<A>(get(from[k * stride])) : A(0);
      }
    }
  });
}

}  // namespace fused_ce::cuda
