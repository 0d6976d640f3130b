// SPDX-License-Identifier: BSD-3-Clause
#include "rows.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/ceil.h>
#include <ATen/ops/exp2.h>
#include <ATen/ops/log2.h>

#include "../arguments.h"
#include "products.h"

namespace fused_ce::linear {

Options by_row(const LinearOptions& options) {
  Options rows = options;
  rows.reduction = at::Reduction::None;
  return rows;
}

Options without_mean(const LinearOptions& options) {
  Options sum = options;
  if (options.is_mean()) sum.reduction = at::Reduction::Sum;
  return sum;
}

at::Tensor reduced(const at::Tensor& rows, const LinearOptions& options,
                   const at::Tensor& total_weight, at::ScalarType dtype) {
  if (options.by_row()) return rows.to(dtype);
  const at::Tensor sum = rows.sum();
  return (options.is_mean() ? sum / total_weight : sum).to(dtype);
}

ops::Gradients of_sums(const ops::Gradients& grads, const LinearOptions& options,
                       const at::Tensor& total_weight) {
  if (!options.is_mean()) return grads;
  const auto divided = [&](const at::Tensor& grad) {
    return grad.defined() ? grad.to(at::kDouble) / total_weight : grad;
  };
  return {divided(grads.loss), divided(grads.z_loss), grads.lse, grads.entropy};
}

at::Tensor gradient_scale(const LinearCall& call, const at::Tensor& total_weight) {
  const at::ScalarType type = product_type(call.layer.input);
  if (!call.options.is_mean() || type == at::kFloat || type == at::kDouble) return {};
  // A power of two changes no digit.
  return at::exp2(at::ceil(at::log2(total_weight.clamp_min(1))));
}

}  // namespace fused_ce::linear
