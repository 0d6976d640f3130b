// What forward leaves behind for rows: losses, their sums, and the numbers for backward.
#pragma once

#include "objective.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

// What a task adds up on the way.
struct TaskSums {
  CompensatedSum loss, weight;
  int64_t bad_row = kNoBadRow;
  void note(int64_t bad) {
    if (bad_row == kNoBadRow) bad_row = bad;
  }
  // Rows' losses, and what their targets weigh.
  void add(const Problem& p, const double* losses, const double* weights, int n) {
    if (p.weight) {
      loss.add(losses, n);
      weight.add(weights, n);
    } else {
      loss.add_and_count(losses, weight, weights, n);
    }
  }
  Partial partial() const { return {loss.total(), weight.total(), bad_row}; }
};

template <class T>
inline void put_as(void* out, const double* values, int64_t first, int n) {
  T* p = static_cast<T*>(out) + first;
  for (int i = 0; i < n; ++i) p[i] = static_cast<T>(values[i]);
}
template <class S>
inline void put_rounded(void* out, const double* values, int64_t first, int n) {
  for (int i = 0; i < n; ++i) put(static_cast<S*>(out) + first + i, static_cast<float>(values[i]));
}

// What backward will need of rows.
template <class A, Terms kTerms, int kRows>
inline void put_saved(const Forward& out, const RowStates<A, kTerms, kRows>& rows, int64_t first,
                      int n) {
  const auto put_all = [&](void* to, const A* values) {
    __builtin_memcpy(static_cast<A*>(to) + first, values, static_cast<size_t>(n) * sizeof(A));
  };
  put_all(out.saved.reference, rows.reference);
  put_as<A>(out.saved.sum, rows.sum, first, n);
  if constexpr (kHasMass<kTerms>) {
    put_as<A>(out.saved.target_or_mass, rows.mass, first, n);
  } else {
    put_all(out.saved.target_or_mass, rows.pivot_logit);
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

// Finishes rows [first, first + n), whose states these are. `loss` is a buffer.
template <class S, Terms kTerms, int kRows>
inline void put_rows(const Problem& p, const Objective<S, kTerms>& objective,
                     RowStates<Accumulate<S>, kTerms, kRows>& rows, int64_t first, int n,
                     const Forward& out, double* loss, TaskSums& sums) {
  objective.finish(rows, n, loss);
  if constexpr (kHasMass<kTerms>) {
    sums.loss.add(loss, n);
  } else {
    sums.add(p, loss, rows.target_weight, n);
  }
  if (out.saved.reference) put_saved(out, rows, first, n);
  if (out.loss) put_losses(out, loss, first, n);
}

}  // namespace fused_ce::cpu::FUSED_CE_ISA
