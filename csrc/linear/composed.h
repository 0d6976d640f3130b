// SPDX-License-Identifier: BSD-3-Clause
// The linear operators as compositions, for derivatives by what the kernels take for constants. By
// weights of rows and what a mean divides by: of the losses of the rows. By class probabilities and
// weights: of a layer and the loss's own operators, with the logits there at once.
#pragma once

#include <optional>

#include "ops.h"

namespace fused_ce::linear::composed {

// The logits, in the type that forward computes them in.
at::Tensor logits(const Layer& layer);

ops::LinearResult forward(const LinearCall& call, std::optional<at::ScalarType> dtype, bool save);
Layer backward(const ops::Gradients& grads, const LinearCall& call, const at::Tensor& saved,
               const at::Tensor& total_weight, Needs needs);

}  // namespace fused_ce::linear::composed
