// SPDX-License-Identifier: BSD-3-Clause
// What of the problem rows end with: worked out on the host, since most GPUs are slow at double,
// and would do it for each row.
#pragma once

#include "exponential.cuh"

namespace fused_ce::cuda {

template <class A>
struct Coefficients {
  A keep, spread;  // what smoothing does to targets: 1 - s and s / C
  A nothing;       // the loss of no classes
  A z_loss_weight;
  Scale<A> scale;  // 1 where logits are capped: then it is in the cap
  const double* weight_sum;
  int64_t classes;  // that a row has, be they here or not

  explicit Coefficients(const Problem& p)
      : keep(static_cast<A>(1 - p.label_smoothing)),
        spread(p.label_smoothing > 0
                   ? static_cast<A>(p.label_smoothing / static_cast<double>(all_classes(p)))
                   : A(0)),
        nothing(static_cast<A>(loss_of_no_rows(p))),
        z_loss_weight(static_cast<A>(p.z_loss_weight)),
        scale(p.cap > 0 ? 1 : p.scale),
        weight_sum(p.weight_sum),
        classes(all_classes(p)) {}

  __device__ A sum_of_weights() const {
    return weight_sum ? static_cast<A>(*weight_sum) : static_cast<A>(classes);
  }
  __device__ __forceinline__ A smoothed(A probability) const { return probability * keep + spread; }
};

}  // namespace fused_ce::cuda
