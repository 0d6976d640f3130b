// SPDX-License-Identifier: BSD-3-Clause
// The derivatives that follow from those of the loss, as compositions of differentiable operations,
// a chunk of logits at a time. Any order of derivatives can be taken of them again.
#pragma once

#include <array>

#include "ops.h"

namespace fused_ce::linear {

using Results = std::array<at::Tensor, ops::Gradients::kCount>;

// How the results change where the layer's tensors change by v: for each that is wanted, what its
// gradients and v add up to, a number for each of it. That is what a forward mode asks for, and
// what the derivative of the gradients is by the incoming ones.
Results contraction(const LinearCall& call, const at::Tensor& saved, const at::Tensor& total_weight,
                    const Layer& v, const std::array<bool, ops::Gradients::kCount>& wanted);

// How the layer's gradients, for these incoming ones, change where its tensors change by v: the
// Hessian times v, by reverse or forward mode.
Layer curvature(const ops::Gradients& grads, const LinearCall& call, const at::Tensor& saved,
                const at::Tensor& total_weight, const Layer& v, Needs needs);

}  // namespace fused_ce::linear
