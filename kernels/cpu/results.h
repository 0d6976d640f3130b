// What forward leaves behind for a group of rows: losses, their sums, and the numbers for backward.
#pragma once

#include "group.h"
#include "sum.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

template <class T>
inline void put_as(void* out, const double* values, int64_t first, int n) {
  T* p = static_cast<T*>(out) + first;
  for (int i = 0; i < n; ++i) p[i] = static_cast<T>(values[i]);
}
template <class S>
inline void put_rounded(void* out, const double* values, int64_t first, int n) {
  for (int i = 0; i < n; ++i) put(static_cast<S*>(out) + first + i, static_cast<float>(values[i]));
}

// What backward will need of a group of rows.
template <class A, bool kIndices, class Group>
inline void put_saved(const Forward& out, const Group& group, int64_t first, int n) {
  __builtin_memcpy(static_cast<A*>(out.saved.reference) + first, group.reference,
                   static_cast<size_t>(n) * sizeof(A));
  put_as<A>(out.saved.sum, group.sum, first, n);
  if constexpr (kIndices) {
    __builtin_memcpy(static_cast<A*>(out.saved.target_or_mass) + first, group.pivot_logit,
                     static_cast<size_t>(n) * sizeof(A));
  } else {
    put_as<A>(out.saved.target_or_mass, group.mass, first, n);
  }
}

inline void put_losses(const Forward& out, const double* loss, int64_t first, int n) {
  switch (out.loss_dtype) {
    case DType::kFloat:
      return put_as<float>(out.loss, loss, first, n);
    case DType::kDouble:
      return put_as<double>(out.loss, loss, first, n);
    case DType::kBFloat16:
      return put_rounded<BFloat16>(out.loss, loss, first, n);
    case DType::kHalf:
      return put_rounded<Half>(out.loss, loss, first, n);
  }
}

// Adds up what the targets of n rows weigh.
inline void add_weights(const Problem& p, const double* weights, int n, TaskSums& sums) {
  if (p.weight) {
    sums.weight.add(weights, n);
  } else {
    sums.weight.count(weights, n);
  }
}

// Finishes rows [first, first + n), whose sums are in the group. `loss` is a buffer.
template <class S, bool kIndices, int kRows>
inline void put_group(const Problem& p, const Smoothing& smoothing,
                      Group<Accumulate<S>, kRows>& group, int64_t first, int n, const Forward& out,
                      double* loss, TaskSums& sums) {
  finish_forward<S, kIndices>(group, n, smoothing, loss);
  sums.loss.add(loss, n);
  if constexpr (kIndices) add_weights(p, group.target_weight, n, sums);
  if (out.saved.reference) put_saved<Accumulate<S>, kIndices>(out, group, first, n);
  if (out.loss) put_losses(out, loss, first, n);
}

}  // namespace fused_ce::cpu::FUSED_CE_ISA
