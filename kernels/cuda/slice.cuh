// SPDX-License-Identifier: BSD-3-Clause
// What a slice of the classes leaves of a row in the place of a loss, to be put together with what
// the other slices come to (see SliceSums). The mirror of cpu/slice.h.
#pragma once

#include "statistics.cuh"

namespace fused_ce::cuda {

// A row's linear sum relative to its largest logit.
template <Terms kTerms, class A>
__device__ inline A linear_below(const Coefficients<A>& k, const RowState<A>& row) {
  if constexpr (kHasMass<kTerms>) return k.scale.s * row.linear;
  if (k.spread == 0) return 0;
  return k.scale.s * (row.linear + k.sum_of_weights() * (row.largest.logit - row.reference));
}

// Of row i, whose state this is.
template <class S, Terms kTerms, class A = Accumulate<S>>
__device__ inline void put_slice(const Coefficients<A>& k, const Problem& p, const RowState<A>& row,
                                 bool counts, int64_t i, const SliceSums& out) {
  using Number = SliceSums::Number;
  const RowStatistics<A> statistics = statistics_of<S, kTerms>(k, row);
  const A largest = row.nan == kNowhere ? row.largest.logit : static_cast<A>(__builtin_nan(""));
  const bool is_read = counts || out.wants_prediction;
  // Nothing is relative to -inf, where all logits are.
  const bool has_sums = is_read && largest != -infinity<A>();
  double* const number = out.numbers + i * Number::kNumbers;
  number[Number::kLargest] = is_read ? largest : A(0);
  number[Number::kOthers] = has_sums ? statistics.others : A(0);
  number[Number::kGap] = has_sums ? statistics.gap : A(0);
  number[Number::kTargetLogit] = kHasMass<kTerms> ? A(0) : row.pivot_logit;
  number[Number::kTargetWeight] = row.target_weight;
  // What probabilities weigh there is infinite, or no number, as of one process.
  const A nothing = kHasMass<kTerms> && is_read ? row.mass * infinity<A>() : A(0);
  number[Number::kLinear] = has_sums ? linear_below<kTerms>(k, row) : nothing;
  number[Number::kMass] = row.mass;
  number[Number::kPrediction] = static_cast<double>(p.slice.first + statistics.prediction);
}

}  // namespace fused_ce::cuda
