// SPDX-License-Identifier: BSD-3-Clause
// The loss and its gradient as compositions of ATen operations, which can be differentiated by what
// the kernels take for constants: class probabilities, weights, and what a mean divides by.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "ops.h"

namespace fused_ce::composed {

// Whether the kernels' constants are none to this level of transforms.
bool is_needed(const Call& call);

// Replaces the results that have derivatives, and total_weight if it is there, by their
// compositions. dtype: of the loss, as ops::forward takes it.
void replace(ops::ForwardResult& result, const Call& call, std::optional<at::ScalarType> dtype);

// The gradient by the logits.
at::Tensor gradient(const ops::Gradients& grads, const Call& call, const at::Tensor& total_weight);

}  // namespace fused_ce::composed
