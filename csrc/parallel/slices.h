// SPDX-License-Identifier: BSD-3-Clause
// What the kernels do of a slice of the classes: the two private operators, which each device
// implements, and no process waits for another in.
#pragma once

#include <ATen/core/Tensor.h>

#include "../ops.h"
#include "call.h"

namespace fused_ce::parallel {

// The numbers that smoothing and class weights need of the whole, beside what forward saves; see
// ClassSlice and Call. Undefined where they are not needed.
struct WholeWeights {
  at::Tensor target_weight, weight_sum;
};

// Whether smoothing spreads over the classes of the call's rows: of indices.
bool is_smoothed(const ParallelCall& call);

// Throw what does not fit of a slice; `self`: its logits, or a tensor of their shape.
void check_slice(const ParallelCall& call, const at::Tensor& weight_sum);
void check_target_weight(const ParallelCall& call, const at::Tensor& target_weight);

// What the kernels are told of it.
ClassSlice slice_of(const ParallelCall& call, const at::Tensor& target_weight);

using SumsFunction = at::Tensor(const ParallelCall& call, const at::Tensor& weight_sum);
using GradientFunction = at::Tensor(const ops::Gradients& grads, const ParallelCall& call,
                                    const WholeWeights& weights, const at::Tensor& saved);

// Through the dispatcher. SliceSums (kernels/problem.h), (rows, numbers).
at::Tensor slice_sums(const ParallelCall& call, const at::Tensor& weight_sum);
// The gradient of this process's logits, from the gradients of each row's loss, lse and entropy and
// the numbers saved of the whole rows.
at::Tensor slice_backward(const ops::Gradients& grads, const ParallelCall& call,
                          const WholeWeights& weights, const at::Tensor& saved);

namespace device {
at::Tensor slice_sums(const ParallelCall& call, const at::Tensor& weight_sum);
at::Tensor slice_backward(const ops::Gradients& grads, const ParallelCall& call,
                          const WholeWeights& weights, const at::Tensor& saved);
}  // namespace device

namespace meta {
at::Tensor slice_sums(const ParallelCall& call, const at::Tensor& weight_sum);
at::Tensor slice_backward(const ops::Gradients& grads, const ParallelCall& call,
                          const WholeWeights& weights, const at::Tensor& saved);
}  // namespace meta

}  // namespace fused_ce::parallel
