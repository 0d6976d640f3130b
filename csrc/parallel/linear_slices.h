// SPDX-License-Identifier: BSD-3-Clause
// What slices.h has, of a layer whose outputs are the logits: a chunk of rows at a time, so that no
// tensor of as many numbers as logits is made.
#pragma once

#include "../linear/call.h"
#include "slices.h"

namespace fused_ce::parallel {

// What the linear layer's own operators are told.
linear::LinearOptions linear_options(const ParallelOptions& options);

using LinearSumsFunction = at::Tensor(const ParallelLinearCall& call, const at::Tensor& weight_sum);
// The input's is of the accumulate type, for it has yet to be added up over the processes.
using LinearGradientFunction = linear::Layer(const ops::Gradients& grads,
                                             const ParallelLinearCall& call,
                                             const WholeWeights& weights, const at::Tensor& saved,
                                             linear::Needs needs);

at::Tensor slice_linear_sums(const ParallelLinearCall& call, const at::Tensor& weight_sum);
linear::Layer slice_linear_backward(const ops::Gradients& grads, const ParallelLinearCall& call,
                                    const WholeWeights& weights, const at::Tensor& saved,
                                    linear::Needs needs);

namespace device {
at::Tensor slice_linear_sums(const ParallelLinearCall& call, const at::Tensor& weight_sum);
linear::Layer slice_linear_backward(const ops::Gradients& grads, const ParallelLinearCall& call,
                                    const WholeWeights& weights, const at::Tensor& saved,
                                    linear::Needs needs);
}  // namespace device

namespace meta {
at::Tensor slice_linear_sums(const ParallelLinearCall& call, const at::Tensor& weight_sum);
linear::Layer slice_linear_backward(const ops::Gradients& grads, const ParallelLinearCall& call,
                                    const WholeWeights& weights, const at::Tensor& saved,
                                    linear::Needs needs);
}  // namespace meta

}  // namespace fused_ce::parallel
