// SPDX-License-Identifier: BSD-3-Clause
// The logarithms that a row's loss is made of.
#pragma once

#include "state.cuh"

namespace fused_ce::cuda {

template <class S, Terms kTerms>
class Logarithms {
  using A = Accumulate<S>;
  using K = Constants<A>;

 public:
  __device__ Logarithms(const Scale<A>& scale, const RowState<A>& row)
      : scale_(scale),
        row_(row),
        offset_(Offset<S>::of(row.reference, scale)),
        pivot_(kHasMass<kTerms> ? Sum<A>{row.pivot_exp, 0}
                                : Reference<S>(offset_, scale).exp_and_rest(row.pivot_logit)),
        sum_(row.sum.total()) {}

  // -log p of the pivot. The quotient is exact to the last bits however small the result is, and
  // fails only where the e^z of a target underflows.
  __device__ A nll() const {
    const A total = sum_ + pivot_.high;
    const bool representable = kHasMass<kTerms> ||
                               (pivot_.high > sum_ * K::kTiny && pivot_.high > K::kTiny) ||
                               total != total;
    const A m = row_.reference;
    return representable ? log1p_of(quotient(row_.sum, pivot_))
                         : log_of_total(m) + scale_.s * (m - row_.pivot_logit);
  }

  // The log of the sum of all e^z, less `origin`, a logit.
  __device__ A lse(A nll, A origin) const {
    const A m = row_.reference, x = row_.pivot_logit;
    if (!is_finite(m)) return is_nan(sum_) || is_nan(x) ? x - x + sum_ : m - origin;
    // Where the pivot leads, what the logarithm of the total has lost may be all of the loss.
    const bool leads = kHasMass<kTerms> || sum_ < pivot_.high;
    return leads ? fma_of(scale_.s, x - origin, nll) : log_of_total(origin);
  }

 private:
  // The reference cancels against the origin first, and its power of two against that of the total,
  // while the products are still exact.
  __device__ A log_of_total(A origin) const {
    const Scaled<A> total = Scaled<A>::of(sum_ + pivot_.high);
    const A c = offset_.c + total.exponent;
    return fma_of(scale_.s, offset_.shift - origin, c * K::kLn2High) +
           (c * K::kLn2Low + log_of(total.mantissa));
  }

  const Scale<A>& scale_;
  const RowState<A>& row_;
  const Offset<S> offset_;
  const Sum<A> pivot_;
  const A sum_;  // of the others
};

}  // namespace fused_ce::cuda
