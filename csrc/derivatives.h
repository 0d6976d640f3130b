// SPDX-License-Identifier: BSD-3-Clause
// Derivatives of the second order, which the kernels do not compute, in operations that can be
// differentiated and transformed again. With D_j the gradient by the logits z of what has incoming
// gradients (kernels/README.md), that by the numbers x they stand for is D_j dz_j/dx_j.
#pragma once

#include <ATen/core/Tensor.h>

#include "ops.h"

namespace fused_ce {

// sum_j K_ij v_ij, where K is the gradient by the logits of one of the results (its index in
// ops::Gradients): that result's tangent, and the derivative of the gradient by the incoming one.
// In the accumulate type.
at::Tensor contraction(size_t result, const Call& call, const at::Tensor& saved,
                       const at::Tensor& total_weight, const at::Tensor& v);

// The gradient's derivative by the logits, applied to v. It is symmetric, so this is the gradient's
// own gradient as well as its tangent.
at::Tensor curvature(const ops::Gradients& grads, const Call& call, const at::Tensor& total_weight,
                     const at::Tensor& v);

}  // namespace fused_ce
