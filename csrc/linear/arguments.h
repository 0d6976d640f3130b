// SPDX-License-Identifier: BSD-3-Clause
// What the arguments of the linear operators must be; of the loss's own, ../arguments.h says it.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/SymIntArrayRef.h>

#include <optional>
#include <string>

#include "ops.h"

namespace fused_ce::linear {

// A tensor of the shape of the logits, for what asks about that alone: one number, expanded. The
// second throws where there are no two matrices whose product they would be.
at::Tensor absent_logits(const at::Tensor& input, c10::SymIntArrayRef shape);
at::Tensor absent_logits(const LinearCall& call);

// A shape as Python writes it, in torch's words of these operators.
std::string as_tuple(c10::SymIntArrayRef shape);

void check_defined(const at::Tensor& tensor, const char* name);

// Throw where the tensors do not make a layer: an input (*, K) and a weight of at least two
// dimensions, whose bias has the weight's shape but for K.
void check_layer(const Layer& layer);
// The same of the rest, with absent_logits(call), and what ../arguments.h asks of it.
at::ScalarType check_forward(const LinearCall& call, const at::Tensor& absent,
                             std::optional<at::ScalarType> dtype, Needs needs);
void check_backward(const ops::Gradients& grads, const LinearCall& call, const at::Tensor& absent,
                    const at::Tensor& saved, const at::Tensor& total_weight, Needs needs);

}  // namespace fused_ce::linear
