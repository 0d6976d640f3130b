// SPDX-License-Identifier: BSD-3-Clause
// Between the rows of a batch, which the chunks know, and the losses, which are sums or means over
// all of them.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>

#include "ops.h"

namespace fused_ce::linear {

// One loss a row: what forward asks for a chunk.
Options by_row(const LinearOptions& options);
// What backward asks for a chunk: a mean is a sum whose gradient is divided before.
Options without_mean(const LinearOptions& options);

// The loss of the rows' losses.
at::Tensor reduced(const at::Tensor& rows, const LinearOptions& options,
                   const at::Tensor& total_weight, at::ScalarType dtype);

// Incoming gradients as without_mean has them, and a chunk's part of those.
ops::Gradients of_sums(const ops::Gradients& grads, const LinearOptions& options,
                       const at::Tensor& total_weight);
template <class F>  // f(a number a row): those of the chunk
ops::Gradients part_of(const ops::Gradients& grads, const LinearOptions& options, F f) {
  const auto of_loss = [&](const at::Tensor& grad) {
    return grad.defined() && options.by_row() ? f(grad) : grad;
  };
  const auto of_rows = [&](const at::Tensor& grad) { return grad.defined() ? f(grad) : grad; };
  return {of_loss(grads.loss), of_loss(grads.z_loss), of_rows(grads.lse), of_rows(grads.entropy)};
}

// What the loss is multiplied with whose gradients are computed: a mean over many rows would have
// none by its logits in half precision. Undefined: with nothing.
at::Tensor gradient_scale(const LinearCall& call, const at::Tensor& total_weight);

}  // namespace fused_ce::linear
