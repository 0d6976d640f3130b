// SPDX-License-Identifier: BSD-3-Clause
// What forward leaves behind for rows: losses, what they add to sums, and the numbers for
// backward.
#pragma once

#include "objective.cuh"
#include "totals.cuh"

namespace fused_ce::cuda {

// What backward will need of a row.
template <class A>
__device__ inline void put_saved(const Saved& saved, int64_t i, const SavedRow<A>& row) {
  static_cast<A*>(saved.reference)[i] = row.reference;
  static_cast<A*>(saved.sum)[i] = row.sum;
  static_cast<A*>(saved.target_or_mass)[i] = row.target_or_mass;
}

// Whether row i's logits are of any interest; y: its target.
template <class S, Terms kTerms>
__device__ inline bool is_read(const Objective<S, kTerms>& objective, int64_t y,
                               const Forward& out) {
  return objective.counts(y) ||
         (kIsGeneral<kTerms> &&
          (out.statistics.prediction || out.statistics.confidence || out.slice.wants_prediction));
}

// f(k) for each of kN rows.
template <int kN, class F>
__device__ __forceinline__ void for_rows(F f) {
#pragma unroll
  for (int k = 0; k < kN; ++k) f(k);
}

// The statistics of rows [i, i + kN).
template <class S, Terms kTerms, int kN, class A = Accumulate<S>>
__device__ inline void put_statistics(const Objective<S, kTerms>& objective,
                                      const RowState<A> (&rows)[kN], int64_t i,
                                      const Forward& out) {
  const Statistics& to = out.statistics;
  RowStatistics<A> found[kN];
  for_rows<kN>([&](int k) { found[k] = objective.statistics(rows[k]); });
  if (to.entropy) {
    for_rows<kN>([&](int k) {
      static_cast<A*>(to.entropy)[i + k] =
          objective.counts(rows[k].target) ? found[k].entropy : A(0);
    });
  }
  if (to.prediction) for_rows<kN>([&](int k) { to.prediction[i + k] = found[k].prediction; });
  if (to.confidence) {
    for_rows<kN>([&](int k) { static_cast<A*>(to.confidence)[i + k] = found[k].confidence; });
  }
  if (out.saved.gap) {
    for_rows<kN>([&](int k) { static_cast<A*>(out.saved.gap)[i + k] = found[k].gap; });
  }
}

// Finishes rows [i, i + kN) of the problem, whose states these are.
template <class S, Terms kTerms, int kN, class A = Accumulate<S>>
__device__ inline void put_rows(const Objective<S, kTerms>& objective,
                                const RowState<A> (&rows)[kN], int64_t i, const Forward& out,
                                RowTotals<A>& totals) {
  const Problem& p = objective.problem;
  const Statistics& to = out.statistics;
  if constexpr (kIsGeneral<kTerms>) {
    if (out.slice.numbers) {
      for_rows<kN>([&](int k) { objective.put_slice(rows[k], i + k, out.slice); });
      return;
    }
  }
  RowLoss<A> found[kN];
  A weight[kN];
  for_rows<kN>([&](int k) {
    found[k] = objective.finish(rows[k], to.lse != nullptr);
    // Of probabilities rows weigh nothing where none has a weight of its own.
    weight[k] = kHasMass<kTerms> ? A(0) : rows[k].target_weight;
  });
  if (p.row_weight) {
    for_rows<kN>([&](int k) {
      if (!objective.counts(rows[k].target)) return;
      const A own = row_weight_of<A>(p, i + k);
      found[k].loss *= own;
      found[k].z_loss *= own;
      weight[k] = kHasMass<kTerms> ? own : weight[k] * own;
    });
  }
  if (out.saved.reference) {
    for_rows<kN>([&](int k) { put_saved(out.saved, i + k, objective.saved(rows[k])); });
  }
  if (out.loss) {
    for_rows<kN>([&](int k) { put_number<A>(out.loss, out.loss_dtype, i + k, found[k].loss); });
  }
  if (to.z_loss) {
    for_rows<kN>([&](int k) { put_number<A>(to.z_loss, out.loss_dtype, i + k, found[k].z_loss); });
  }
  if (to.lse) for_rows<kN>([&](int k) { static_cast<A*>(to.lse)[i + k] = found[k].lse; });
  if constexpr (kIsGeneral<kTerms>) put_statistics(objective, rows, i, out);
  for_rows<kN>([&](int k) { totals.add(found[k].loss, weight[k], found[k].z_loss); });
}

template <class S, Terms kTerms, class A = Accumulate<S>>
__device__ inline void put_row(const Objective<S, kTerms>& objective, const RowState<A>& row,
                               int64_t i, const Forward& out, RowTotals<A>& totals) {
  const RowState<A> rows[1] = {row};
  put_rows(objective, rows, i, out, totals);
}

}  // namespace fused_ce::cuda
