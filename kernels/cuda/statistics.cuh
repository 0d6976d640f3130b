// SPDX-License-Identifier: BSD-3-Clause
// A row's statistics, from its state.
#pragma once

#include "coefficients.cuh"
#include "state.cuh"

namespace fused_ce::cuda {

template <class A>
struct RowStatistics {
  A others;  // sum of e^(z_j - z_k) over the classes j but k, that with the largest logit
  A entropy;
  A gap;  // sum of p_j (z_k - z_j)
  A confidence;
  int64_t prediction;
};

// With the largest class out of the sums no term is negative, and nothing cancels.
template <class S, Terms kTerms, class A = Accumulate<S>>
__device__ inline RowStatistics<A> statistics_of(const Coefficients<A>& k, const RowState<A>& row) {
  const Pivot<A>& largest = row.largest;
  const Reference<S> ref(Offset<S>::of(row.reference, k.scale), k.scale);
  const Sum<A> largest_exp = ref.exp_and_rest(largest.logit);
  Sum<A> others = row.rest;
  A gap = row.gap;
  if (is_class(row.target) && row.target != largest.index) {
    const Sum<A> target_exp = ref.exp_and_rest(row.pivot_logit);
    gap += target_exp.high * smaller(largest.logit - row.pivot_logit, Constants<A>::kLargest);
    others.add(target_exp);
  }
  const A share = quotient(others, largest_exp);
  const A mean_gap = k.scale.s * (gap / largest_exp.high) / (1 + share);
  const int64_t first = largest.index == kNowhere ? 0 : largest.index;  // 0: all are -inf
  return {share, log1p_of(share) + mean_gap, mean_gap, 1 / (1 + share),
          row.nan == kNowhere ? first : row.nan};
}

}  // namespace fused_ce::cuda
