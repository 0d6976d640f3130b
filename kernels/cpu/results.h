// SPDX-License-Identifier: BSD-3-Clause
// What forward leaves behind for rows: losses, their sums, and the numbers for backward.
#pragma once

#include "objective.h"
#include "targets.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

// What a task adds up on the way.
struct TaskSums {
  CompensatedSum loss, weight, z_loss;
  int64_t bad_row = kNoBadRow;
  void note(int64_t bad) {
    if (bad_row == kNoBadRow) bad_row = bad;
  }
  // Rows' losses, and what their targets weigh.
  void add(const Problem& p, const double* losses, const double* weights, int n) {
    if (p.weight || p.row_weight) {
      loss.add(losses, n);
      weight.add(weights, n);
    } else {
      loss.add_and_count(losses, weight, weights, n);
    }
  }
  // Those of another problem, whose first row is row `first` of this one.
  void add(const Partial& other, int64_t first) {
    loss.add(&other.loss, 1);
    weight.add(&other.weight, 1);
    z_loss.add(&other.z_loss, 1);
    note(other.bad_row == kNoBadRow ? kNoBadRow : first + other.bad_row);
  }
  Partial partial() const { return {loss.total(), weight.total(), bad_row, z_loss.total()}; }
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
  if constexpr (kIsRanked<kTerms>) {
    if (out.saved.gap) put_as<A>(out.saved.gap, rows.gap, first, n);
  }
}

// Losses, of the type that they have.
inline void put_losses(void* out, DType dtype, const double* loss, int64_t first, int n) {
  switch (dtype) {
    case DType::kFloat:
      return put_as<float>(out, loss, first, n);
    case DType::kDouble:
      return put_as<double>(out, loss, first, n);
    case DType::kBFloat16:
      return put_rounded<BFloat16>(out, loss, first, n);
    case DType::kHalf:
      return put_rounded<Half>(out, loss, first, n);
  }
}

// What is asked for beside torch's loss, of rows whose `loss` and `lse` are finished: puts it where
// it belongs, and into the losses and the weights of targets. `z_loss` is a buffer.
template <class A>
FUSED_CE_OUT_OF_LINE void put_more(const Problem& p, int64_t first, int n, const Forward& out,
                                   const double* lse, double* loss, double* z_loss,
                                   double* target_weight, TaskSums& sums) {
  if (out.statistics.lse) put_as<A>(out.statistics.lse, lse, first, n);
  if (p.z_loss_weight != 0 || out.statistics.z_loss) {
    const double weight = p.z_loss_weight;
    for (int i = 0; i < n; ++i) {
      z_loss[i] = weight == 0 ? 0 : weight * lse[i] * lse[i];
      loss[i] += z_loss[i];
    }
    times_row_weights<A>(p, first, n, z_loss);
    sums.z_loss.add(z_loss, n);
    if (out.statistics.z_loss) put_losses(out.statistics.z_loss, out.loss_dtype, z_loss, first, n);
  }
  times_row_weights<A>(p, first, n, loss);
  times_row_weights<A>(p, first, n, target_weight);
}

// The lse of rows that have no finite one: NaN where a logit is, else the largest.
template <class S>
FUSED_CE_OUT_OF_LINE void mend_lse(const Problem& p, int64_t first, int n, double* lse) {
  bool finite = true;
  for (int i = 0; i < n; ++i) finite &= lse[i] - lse[i] == 0;
  for (int i = 0; !finite && i < n; ++i) {
    if (lse[i] - lse[i] == 0) continue;
    const S* x = static_cast<const S*>(p.logits) + row_offset(p, p.logits_strides, first + i);
    double largest = -__builtin_inf();
    for (int64_t c = 0; c < p.classes; ++c, x += p.logits_strides.classes) {
      const double value = static_cast<double>(get(x));
      if (!(value <= largest) && largest == largest) largest = value;
    }
    if (largest - largest != 0) lse[i] = largest;
  }
}

// The statistics of rows that are finished.
template <class S, Terms kTerms, int kRows, class A = Accumulate<S>>
inline void put_statistics(const Problem& p, const RowStates<A, kTerms, kRows>& rows, int64_t first,
                           int n, const Statistics& out, const Finished<kRows>& finished) {
  if (out.entropy) put_as<A>(out.entropy, finished.entropy, first, n);
  if (out.confidence) put_as<A>(out.confidence, finished.confidence, first, n);
  if (!out.prediction) return;
  int64_t* const predictions = out.prediction + first;
  bool nan = false;
  for (int i = 0; i < n; ++i) {
    predictions[i] = rows.prediction[i];
    nan |= finished.confidence[i] != finished.confidence[i];
  }
  // No number may be the reason why another class leads.
  for (int i = 0; nan && i < n; ++i) {
    if (finished.confidence[i] == finished.confidence[i]) continue;
    const int64_t c = first_nan<S>(p, first + i);
    if (c >= 0) predictions[i] = c;
  }
}

// Finishes rows [first, first + n), whose states these are. `finished` is a buffer.
template <class S, Terms kTerms, int kRows, class A = Accumulate<S>>
inline void put_rows(const Problem& p, const Objective<S, kTerms>& objective,
                     RowStates<A, kTerms, kRows>& rows, int64_t first, int n, const Forward& out,
                     Finished<kRows>& finished, TaskSums& sums) {
  const bool wants_lse = p.z_loss_weight != 0 || out.statistics.lse || out.statistics.z_loss;
  objective.finish(rows, n, wants_lse, out.saved.reference != nullptr, finished);
  if constexpr (kIsRanked<kTerms>) {
    if (out.slice.numbers) return objective.put_slice(rows, p, first, n, finished, out.slice);
  }
  if (wants_lse) mend_lse<S>(p, first, n, finished.lse);
  if constexpr (kIsRanked<kTerms>) put_statistics<S>(p, rows, first, n, out.statistics, finished);
  if (kHasMass<kTerms> && p.row_weight) {
    for (int i = 0; i < n; ++i) rows.target_weight[i] = 1;
  }
  if (wants_lse || p.row_weight) {
    put_more<A>(p, first, n, out, finished.lse, finished.loss, finished.z_loss, rows.target_weight,
                sums);
  }
  if (kHasMass<kTerms> && !p.row_weight) {
    sums.loss.add(finished.loss, n);
  } else {
    sums.add(p, finished.loss, rows.target_weight, n);
  }
  if (out.saved.reference) put_saved(out, rows, first, n);
  if (out.loss) put_losses(out.loss, out.loss_dtype, finished.loss, first, n);
}

}  // namespace fused_ce::cpu::FUSED_CE_ISA
