// SPDX-License-Identifier: BSD-3-Clause
// What forward leaves of a row for backward: three numbers; or, of a row of few classes, one.
#pragma once

#include "logarithms.cuh"
#include "plan.h"

namespace fused_ce::cuda {

// A row's numbers of struct Saved; or, where it leaves but one, that is `sum`.
template <class A>
struct SavedRow {
  A reference, sum, target_or_mass;

  static __device__ SavedRow of(const Saved& saved, int64_t row, bool one) {
    const A sum = static_cast<const A*>(saved.sum)[row];
    if (one) return {0, sum, 0};
    return {static_cast<const A*>(saved.reference)[row], sum,
            static_cast<const A*>(saved.target_or_mass)[row]};
  }
  __device__ void put(const Saved& saved, int64_t row, bool one) const {
    static_cast<A*>(saved.sum)[row] = sum;
    if (one) return;
    static_cast<A*>(saved.reference)[row] = reference;
    static_cast<A*>(saved.target_or_mass)[row] = target_or_mass;
  }
};

// What is left of a row for backward. A pivot's logit becomes the reference, by which backward
// knows the pivot again, and the sum is made relative to it: by the quotient of two exponentials of
// one logit, a power of two where neither was relative to a shift.
template <class S, Terms kTerms, class A = Accumulate<S>>
__device__ inline SavedRow<A> saved_of(const Scale<A>& scale, const RowState<A>& row) {
  // A row with an infinite reference has no gradient.
  const A m = row.reference, others = is_finite(m) ? row.sum.total() : m - m;
  if constexpr (!kHasPivot<kTerms>) return {m, others, row.pivot_logit};
  const A x = kHasMass<kTerms> ? row.pivot_logit : row.largest.logit;
  const auto exp_relative_to = [&](A reference) {
    return Reference<S>(Offset<S>::of(reference, scale), scale).exp(x);
  };
  return {x, others * (exp_relative_to(x) / exp_relative_to(m)),
          kHasMass<kTerms> ? row.mass : row.pivot_logit};
}

// Whether rows leave one number: the odds against the target. Its logit, which backward reads
// anyway, makes the other two. Of few classes they would be a third of all that is moved; in long
// rows, whose pieces may be overwritten by their gradients before another piece is read, they weigh
// nothing.
template <class S, Terms kTerms>
__device__ __forceinline__ bool saves_odds(const Problem& p, const Saved& saved) {
  constexpr int64_t kMost = kFewBytes / sizeof(S);
  return !kHasPivot<kTerms> && !saved.ranked && !is_slice(p) && p.classes <= kMost;
}
// What is left of a row with these odds.
template <class S, class A = Accumulate<S>>
__device__ inline A odds_of(const RowState<A>& row, A odds) {
  using R = ReferenceConstants<S>;
  constexpr A kMost = static_cast<A>(R::kLargestSum / (int64_t{1} << R::kHeadroomBits));
  const A m = row.reference;
  if (!is_finite(m)) return m - m;  // as saved_of has it
  // Backward's sum of larger odds would overflow; smaller ones have lost digits.
  const bool too_small = odds < Constants<A>::kTiny && row.sum.total() > 0;
  return too_small || odds > kMost ? kNoOdds<A> : odds;
}

// A sum relative to the exponential of x, as one that is relative to x as a reference.
template <class S, class A = Accumulate<S>>
__device__ inline A by_reference(const Scale<A>& scale, A x, A sum) {
  const Sum<A> own = Reference<S>(Offset<S>::of(x, scale), scale).exp_and_rest(x);
  return fma_of(sum, own.high, sum * own.low);
}

}  // namespace fused_ce::cuda
