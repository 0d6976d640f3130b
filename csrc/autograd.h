// SPDX-License-Identifier: BSD-3-Clause
// The private operators where derivatives are taken: they record what happens in the graph, and
// carry forward-mode tangents. The logits and the incoming gradients have derivatives by the
// kernels; where class probabilities, weights or a normalizer want one as well, a composition
// answers (composed.h).
#pragma once

#include "ops.h"

namespace fused_ce::autograd {

ops::ForwardResult forward(const Call& call, std::optional<at::ScalarType> dtype, bool save);
at::Tensor backward(const ops::Gradients& grads, const Call& call, const at::Tensor& saved,
                    const at::Tensor& total_weight);
void backward_(const ops::Gradients& grads, const Call& call, const at::Tensor& saved,
               const at::Tensor& total_weight);

// Between these and the devices: the logits are a version older where they are overwritten.
void overwrite(const ops::Gradients& grads, const Call& call, const at::Tensor& saved,
               const at::Tensor& total_weight);

}  // namespace fused_ce::autograd
