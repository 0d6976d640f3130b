// SPDX-License-Identifier: BSD-3-Clause
// Where a problem's rows and values lie in memory.
#pragma once

#include "convert.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

inline int64_t row_offset(const Problem& p, const Strides& s, int64_t row) {
  if (p.inner == 1) return row * s.outer;  // a division costs as much as a short row
  return row / p.inner * s.outer + row % p.inner * s.inner;
}

template <class S, class A>
inline void gather_as(const void* base, int64_t offset, int64_t stride, int n, A* out) {
  const S* p = static_cast<const S*>(base) + offset;
  int i = 0;
  if constexpr (sizeof(A) == sizeof(Accumulate<S>)) {
    constexpr int kW = kLanes<A>;
    if (stride == 1) {
      for (; i + kW <= n; i += kW) store(out + i, load(p + i));
    }
  }
  for (; i < n; ++i) out[i] = static_cast<A>(get(p + i * stride));
}

// n values that lie `stride` apart, as n neighbours of type A: the memory itself where it is so
// already.
template <class A>
inline const A* gather(const void* base, DType dtype, int64_t offset, int64_t stride, int n,
                       A* buffer) {
  constexpr DType kSame = sizeof(A) == 8 ? DType::kDouble : DType::kFloat;
  if (dtype == kSame && stride == 1) return static_cast<const A*>(base) + offset;
  switch (dtype) {
    case DType::kFloat:
      gather_as<float>(base, offset, stride, n, buffer);
      break;
    case DType::kDouble:
      gather_as<double>(base, offset, stride, n, buffer);
      break;
    case DType::kBFloat16:
      gather_as<BFloat16>(base, offset, stride, n, buffer);
      break;
    case DType::kHalf:
      gather_as<Half>(base, offset, stride, n, buffer);
      break;
  }
  return buffer;
}

// Rows [first, first + n) as one run of n * classes values: the memory itself where they lie so,
// or else `buffer`.
template <class S>
inline const S* flat_rows(const Problem& p, int64_t first, int n, S* buffer) {
  const S* logits = static_cast<const S*>(p.logits);
  const Strides& s = p.logits_strides;
  if (p.inner == 1 && s.classes == 1 && s.outer == p.classes) return logits + first * p.classes;
  S* out = buffer;
  for (int i = 0; i < n; ++i) {
    const S* row = logits + row_offset(p, s, first + i);
    for (int64_t c = 0; c < p.classes; ++c) *out++ = row[c * s.classes];
  }
  return buffer;
}

}  // namespace fused_ce::cpu::FUSED_CE_ISA
