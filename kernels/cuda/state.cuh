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
};

// The state of a row of these sums relative to m. y: its target, or a NoClass.
template <class A, Terms kTerms>
__device__ inline RowState<A> state_of(const RowSums<A, kTerms>& sums, A m, int64_t y,
                                       A target_logit, A target_weight) {
  const Sum<A>& others = sums.exponentials;
  const A linear = sums.linear.total();
  if constexpr (!kHasMass<kTerms>) return {m, others, linear, 0, 0, target_logit, y, target_weight};
  const Term<A>& pivot = sums.pivot;
  const A mass = sums.mass.total();
  // The pivot's own adds nothing to a linear sum relative to it.
  return {m,
          others,
          linear - mass * (m - pivot.logit),
          mass + pivot.weight,
          pivot.exponential,
          pivot.logit,
          y,
          target_weight};
}

// A row that counts for nothing, and is harmless to compute with.
template <class A>
__device__ inline RowState<A> ignored_state() {
  return {0, {1, 0}, 0, 0, 0, 0, kIgnored, 0};
}

// Whether a guessed reference was near enough to the logits: else the row is summed again.
template <class S, Terms kTerms, class A = Accumulate<S>>
__device__ bool is_in_range(const RowState<A>& row, int64_t classes) {
  const A sum = row.sum.total();
  return row.reference > -infinity<A>() && sum >= 0 &&
         sum < largest_sum<S>(kHasLinear<kTerms>, classes) &&
         // A linear sum without the pivot loses no digits to it; half types' exponential does.
         row.pivot_exp < largest_sum<S>(kIsHalf<S>, classes);
}

}  // namespace fused_ce::cuda
