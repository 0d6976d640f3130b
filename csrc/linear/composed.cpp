#include "composed.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>

#include "../arguments.h"
#include "arguments.h"
#include "device.h"
#include "products.h"

namespace fused_ce::linear::composed {

at::Tensor logits(const Layer& layer) {
  const at::ScalarType type = product_type(layer.input);
  return at::linear(layer.input.to(type), layer.weight.to(type),
                    layer.bias.defined() ? layer.bias.to(type) : layer.bias);
}

ops::LinearResult forward(const LinearCall& call, std::optional<at::ScalarType> dtype, bool save) {
  const at::ScalarType type = check_forward(call, dtype, Needs{});
  ops::LinearResult result{fused_ce::ops::forward(call.at(logits(call.layer)), type, save), {}};
  device::replace_undefined(result.gradients, call.layer.input, accumulate_type(call.layer.input));
  return result;
}

Layer backward(const ops::Gradients& grads, const LinearCall& call, const at::Tensor& saved,
               const at::Tensor& total_weight, Needs needs) {
  check_backward(grads, call, saved, total_weight, needs);
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
