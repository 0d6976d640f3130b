// SPDX-License-Identifier: BSD-3-Clause
// The finish of a row: from its state to its loss and what backward needs. The mirror of
// cpu/finish.h, which has the formulas; here a thread has one row, and computes in the accumulate
// type: double would take most GPUs longer than reading the row.
#pragma once

#include "coefficients.cuh"
#include "logarithms.cuh"

namespace fused_ce::cuda {

// What a row that counts adds to the loss, before the row's own weight.
template <class A>
struct RowLoss {
  A loss = 0;  // with z_loss
  A z_loss = 0;
  A lse = 0;  // where it was asked for, or a z-loss
};

template <class S, Terms kTerms, class A = Accumulate<S>>
__device__ inline RowLoss<A> loss_of(const Coefficients<A>& k, const RowState<A>& row,
                                     bool wants_lse) {
  const Logarithms<S, kTerms> logs(k.scale, row);
  const A nll = logs.nll();
  RowLoss<A> result;
  if constexpr (kHasMass<kTerms>) {
    result.loss = k.scale.s * row.linear + row.mass * nll;
  } else {
    result.loss = k.keep * row.target_weight * nll;
    if (kHasLinear<kTerms> && k.spread != 0) {
      result.loss +=
          k.spread * (k.scale.s * row.linear + k.sum_of_weights() * logs.lse(nll, row.reference));
    }
  }
  if (k.classes == 0) result.loss = k.nothing;
  if (wants_lse || k.z_loss_weight != 0) {
    result.lse = logs.lse(nll, A(0));
    if (k.z_loss_weight != 0) result.z_loss = k.z_loss_weight * result.lse * result.lse;
    result.loss += result.z_loss;
  }
  return result;
}

// What is left of a row for backward. A pivot's logit becomes the reference, by which backward
// knows the pivot again, and the sum is made relative to it: by the quotient of two exponentials of
// one logit, a power of two where neither was relative to a shift.
template <class S, Terms kTerms, class A = Accumulate<S>>
__device__ inline SavedRow<A> saved_of(const Coefficients<A>& k, const RowState<A>& row) {
  // A row with an infinite reference has no gradient.
  const A m = row.reference, others = is_finite(m) ? row.sum.total() : m - m;
  if constexpr (!kHasPivot<kTerms>) return {m, others, row.pivot_logit};
  const A x = kHasMass<kTerms> ? row.pivot_logit : row.largest.logit;
  const auto exp_relative_to = [&](A reference) {
    return Reference<S>(Offset<S>::of(reference, k.scale), k.scale).exp(x);
  };
  return {x, others * (exp_relative_to(x) / exp_relative_to(m)),
          kHasMass<kTerms> ? row.mass : row.pivot_logit};
}

}  // namespace fused_ce::cuda
