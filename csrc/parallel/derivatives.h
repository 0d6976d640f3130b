// SPDX-License-Identifier: BSD-3-Clause
// The derivatives of a gradient: by the gradients that came in, and by the logits.
#pragma once

#include "slices.h"

namespace fused_ce::parallel {

struct Derivatives {
  at::Tensor by_loss, by_lse, by_entropy;  // a number a row
  at::Tensor by_logits;                    // of this process's classes
};

// v: what comes in for the gradient of this process's logits. One collective, of the sums over all
// classes; else differentiable no further.
Derivatives derivatives(const ops::Gradients& grads, const ParallelCall& call,
                        const WholeWeights& weights, const at::Tensor& saved, const at::Tensor& v);

}  // namespace fused_ce::parallel
