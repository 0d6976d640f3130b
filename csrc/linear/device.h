// SPDX-License-Identifier: BSD-3-Clause
// The private linear operators on any device: chunks of logits between torch's products and the
// kernels.
#pragma once

#include <optional>

#include "ops.h"

namespace fused_ce::linear::device {

ops::LinearResult forward(const LinearCall& call, std::optional<at::ScalarType> dtype, bool save,
                          Needs needs);
Layer backward(const ops::Gradients& grads, const LinearCall& call, const at::Tensor& saved,
               const at::Tensor& total_weight, Needs needs);

// What nobody asked for, as the dispatcher returns it.
void replace_undefined(Layer& layer, const at::Tensor& input, at::ScalarType dtype);

}  // namespace fused_ce::linear::device
