// SPDX-License-Identifier: BSD-3-Clause
// The two nodes of a graph: what backward runs, and what differentiates that once more.
#pragma once

#include <ATen/core/Tensor.h>

#include "ops.h"

namespace fused_ce {

// Records in the graph that result was computed from call: what has derivatives gets a grad_fn.
// self requires grad.
void record_forward(ops::ForwardResult& result, const Call& call);

// The same of the gradient that backward computed from the other arguments. self or one of grads
// requires grad.
void record_backward(const at::Tensor& gradient, const ops::Gradients& grads, const Call& call,
                     const at::Tensor& saved, const at::Tensor& total_weight);

}  // namespace fused_ce
