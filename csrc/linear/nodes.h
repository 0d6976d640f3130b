// SPDX-License-Identifier: BSD-3-Clause
// The two nodes of a graph, as ../nodes.h has those of the loss.
#pragma once

#include "ops.h"

namespace fused_ce::linear {

// Records that result was computed from call. Where gradients came with it, `needs` says which.
void record_forward(ops::LinearResult& result, const LinearCall& call, Needs needs);

// The same of the layer's gradients.
void record_backward(Layer& gradients, const ops::Gradients& grads, const LinearCall& call,
                     const at::Tensor& saved, const at::Tensor& total_weight);

}  // namespace fused_ce::linear
