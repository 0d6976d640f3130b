// SPDX-License-Identifier: BSD-3-Clause
// The state of a row: what a loop makes of the row's classes, and what its loss is finished from.
#pragma once

#include "reference.cuh"
#include "sums.cuh"
#include "targets.cuh"

namespace fused_ce::cuda {

template <class A>
struct RowState {
  A reference;      // m
  Sum<A> sum;       // of exponentials, without the target's or the pivot's
  A linear;         // sum of w_j (m - x_j) (indices) or q_j (x_p - x_j), x_p the pivot's logit
  A mass;           // probabilities: sum of q_j
  A pivot_exp;      // probabilities
  A pivot_logit;    // the pivot of class indices is the target
  int64_t target;   // class indices: the class, or why there is none
  A target_weight;  // class indices: 0 for rows that do not count

  // General: what statistics are made of.
  Pivot<A> largest{};      // of the logits
  Sum<A> rest{};           // of exponentials, without the largest's and the target's
  A gap = 0;               // of those times x_k - x_j, x_k the largest logit
  int64_t nan = kNowhere;  // the first class that is NaN, or kNowhere
};

// The state of a row of these sums relative to m. y: its target, or a NoClass.
template <class A, Terms kTerms>
__device__ inline RowState<A> state_of(const RowSums<A, kTerms>& sums, A m, int64_t y,
                                       A target_logit, A target_weight) {
  const Pivot<A>& pivot = sums.pivot;
  RowState<A> row{m, sums.exponentials, sums.linear.total(), 0, 0, target_logit, y, target_weight};
  if constexpr (kIsGeneral<kTerms>) {
    row.largest = pivot;
    row.rest = sums.exponentials;
    row.gap = sums.gap.total();
    row.nan = is_class(y) && is_nan(target_logit) && y < sums.nan ? y : sums.nan;
    if constexpr (!kHasMass<kTerms>) row.sum.add(pivot.exponential);
  }
  if constexpr (kHasMass<kTerms>) {
    const A mass = sums.mass.total();
    row.linear -= mass * (m - pivot.logit);  // the pivot's own adds nothing relative to it
    row.mass = mass + pivot.weight;
    row.pivot_exp = pivot.exponential;
    row.pivot_logit = pivot.logit;
  }
  return row;
}

// A row that counts for nothing, and is harmless to compute with.
template <class A>
__device__ inline RowState<A> ignored_state() {
  return {0, {1, 0}, 0, 0, 0, 0, kIgnored, 0};
}

// Whether a guessed reference was near enough to the logits: else the row is summed again. linear:
// whether a linear sum is made use of.
template <class S, Terms kTerms, class A = Accumulate<S>>
__device__ bool is_in_range(const RowState<A>& row, bool linear, int64_t classes) {
  const A sum = row.sum.total();
  return row.reference > -infinity<A>() && sum >= 0 && sum < largest_sum<S>(linear, classes) &&
         // A linear sum without the pivot loses no digits to it; half types' exponential does.
         row.pivot_exp < largest_sum<S>(kIsHalf<S>, classes) &&
         (!kIsGeneral<kTerms> || is_finite(row.gap));
}

}  // namespace fused_ce::cuda
