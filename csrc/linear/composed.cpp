// SPDX-License-Identifier: BSD-3-Clause
#include "composed.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include "../arguments.h"
#include "../formula.h"
#include "../tangent.h"
#include "arguments.h"
#include "device.h"
#include "products.h"
#include "rows.h"

namespace fused_ce::linear::composed {

at::Tensor logits(const Layer& layer) {
  const at::ScalarType type = product_type(layer.input);
  return at::linear(layer.input.to(type), layer.weight.to(type),
                    layer.bias.defined() ? layer.bias.to(type) : layer.bias);
}

namespace {

ops::LinearResult of_rows(const LinearCall& call, at::ScalarType dtype, bool save) {
  LinearOptions options = call.options;
  options.reduction = at::Reduction::None;
  const at::Tensor absent = absent_logits(call);
  const at::ScalarType wide = c10::promoteTypes(dtype, accumulate_type(absent));
  ops::LinearResult result =
      ops::forward({call.layer, call.target, call.weight, options}, wide, save, Needs{});
  at::Tensor total;
  if (call.options.is_mean()) total = formula::total_weight(call.at(absent));
  const auto weighted = [&](const at::Tensor& rows) {
    const at::Tensor& weight = call.row_weight;
    return reduced(weight.defined() ? rows * weight.to(wide) : rows, call.options, total, dtype);
  };
  result.loss = weighted(result.loss);
  if (options.wants(kZLoss)) result.z_loss = weighted(result.z_loss);
  if (save && total.defined()) result.total_weight = total;
  return result;
}

}  // namespace

ops::LinearResult forward(const LinearCall& call, std::optional<at::ScalarType> dtype, bool save) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const at::ScalarType type = check_forward(call, absent_logits(call), dtype, Needs{});
  if (!has_derivative(call.target) && !has_derivative(call.weight))
    return of_rows(call, type, save);
  ops::LinearResult result{fused_ce::ops::forward(call.at(logits(call.layer)), type, save), {}};
  device::replace_undefined(result.gradients, call.layer.input, accumulate_type(call.layer.input));
  return result;
}

Layer backward(const ops::Gradients& grads, const LinearCall& call, const at::Tensor& saved,
               const at::Tensor& total_weight, Needs needs) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  check_backward(grads, call, absent_logits(call), saved, total_weight, needs);
  const at::Tensor by_logits =
      fused_ce::ops::backward(grads, call.at(logits(call.layer)), saved, total_weight);
  const at::ScalarType type = by_logits.scalar_type(), own = call.layer.input.scalar_type();
  Layer result;
  if (needs[0]) result.input = at::matmul(by_logits, call.layer.weight.to(type)).to(own);
  if (needs[1]) result.weight = at::matmul(by_logits.t(), call.layer.input.to(type)).to(own);
  if (needs[2]) result.bias = by_logits.sum(0).to(own);
  device::replace_undefined(result, call.layer.input, own);
  return result;
}

}  // namespace fused_ce::linear::composed
