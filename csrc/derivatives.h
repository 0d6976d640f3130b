// Derivatives that the kernels do not compute, in ATen operations that can be differentiated and
// transformed again: of the second order, and by arguments that the kernels take as constants.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "options.h"

namespace fused_ce {

// sum_j K_ij v_ij, of each row or reduced as the loss is, where K is the gradient of the rows'
// losses by the logits: the loss's tangent, and the derivative of the gradient by the incoming one.
// In the accumulate type.
at::Tensor contraction(const Call& call, const at::Tensor& saved, const at::Tensor& total_weight,
                       const at::Tensor& v);

// With p = softmax(x), the gradient of a row's loss is g (mass p_j - q_j), see
// kernels/cpu/finish.h. Its derivative by the logits, applied to v,
//     g mass p_j (v_j - sum_k p_k v_k),
// is symmetric: it is the gradient's own gradient as well as its tangent.
at::Tensor curvature(const at::Tensor& grad_output, const Call& call,
                     const at::Tensor& total_weight, const at::Tensor& v);

// torch's own loss, which can be differentiated by class probabilities and their weights. dtype: of
// the loss, as ops::forward takes it.
at::Tensor composed_loss(const Call& call, std::optional<at::ScalarType> dtype);

// The gradient of that loss by the logits, likewise.
at::Tensor composed_gradient(const at::Tensor& grad_output, const Call& call,
                             const at::Tensor& total_weight);

}  // namespace fused_ce
