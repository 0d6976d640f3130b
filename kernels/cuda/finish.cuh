// SPDX-License-Identifier: BSD-3-Clause
// The finish of a row: from its state to its loss and what backward needs. The mirror of
// cpu/finish.h, which has the formulas; here a thread has one row, and computes in the accumulate
// type: double would take most GPUs longer than reading the row.
#pragma once

#include "coefficients.cuh"
#include "saved.cuh"

namespace fused_ce::cuda {

// What a row that counts adds to the loss, before the row's own weight.
template <class A>
struct RowLoss {
  A loss = 0;  // with z_loss
  A z_loss = 0;
  A lse = 0;   // where it was asked for, or a z-loss
  A odds = 0;  // against the pivot, or kNoOdds
};

template <class S, Terms kTerms, class A = Accumulate<S>>
__device__ inline RowLoss<A> loss_of(const Coefficients<A>& k, const RowState<A>& row,
                                     bool wants_lse) {
  const Logarithms<S, kTerms> logs(k.scale, row);
  RowLoss<A> result;
  result.odds = logs.odds();
  const A nll = logs.nll(result.odds);
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

}  // namespace fused_ce::cuda
