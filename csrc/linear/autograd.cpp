// SPDX-License-Identifier: BSD-3-Clause
#include "autograd.h"

#include <ATen/SavedTensorHooks.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include "../arguments.h"
#include "../composed.h"
#include "../tangent.h"
#include "composed.h"
#include "derivatives.h"
#include "device.h"
#include "nodes.h"

namespace fused_ce::linear::autograd {
namespace {

// Of a layer's tensors: what each is where derivatives are taken.
Layer tangents_of(const Layer& layer) {
  return {tangent_of(layer.input), tangent_of(layer.weight), tangent_of(layer.bias)};
}
Layer primals_of(const Layer& layer) {
  return {primal_of(layer.input), primal_of(layer.weight), primal_of(layer.bias)};
}
Needs required_of(const Layer& layer) {
  return {requires_grad(layer.input), requires_grad(layer.weight), requires_grad(layer.bias)};
}
bool any_defined(const Layer& layer) {
  return layer.input.defined() || layer.weight.defined() || layer.bias.defined();
}

// Whether forward may compute gradients. Inside a transform they would have derivatives of their
// own; and hooks that see what is saved for backward are there to keep less of it: a checkpoint
// runs forward once more, and has no use for the gradients of its first time.
bool is_at_once(const LinearCall& call) {
  return !call.options.by_row() && !at::SavedTensorDefaultHooks::get_hooks() &&
         !c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerBackMode);
}

bool is_composed(const LinearCall& call) {
  return fused_ce::composed::is_needed(call.at(undefined()));
}

LinearCall with(const LinearCall& call, const Layer& layer) {
  return {layer, call.target, call.weight, call.options, call.row_weight, call.normalizer};
}

}  // namespace

ops::LinearResult forward(const LinearCall& call, std::optional<at::ScalarType> dtype, bool save,
                          Needs needs) {
  if (is_composed(call)) return composed::forward(call, dtype, save);
  const Layer tangents = tangents_of(call.layer);
  const bool has_tangent = any_defined(tangents);
  const Needs required = required_of(call.layer);
  // The gradient of one number is known but for a factor: two of three products need not be made
  // once more in backward.
  const bool at_once = is_at_once(call) && !has_tangent;
  for (size_t i = 0; i < Layer::kCount; ++i) needs[i] |= at_once && required[i];
  ops::LinearResult result = [&] {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return ops::forward(call, dtype, save || any(required) || has_tangent, needs);
  }();
  if (any(required)) record_forward(result, call, at_once ? required : Needs{});
  if (has_tangent) {
    const Layer primals = primals_of(call.layer);
    std::array<bool, ops::Gradients::kCount> wanted{};
    for (size_t i = 0; i < wanted.size(); ++i) wanted[i] = call.options.has_result(i);
    const Results changes =
        contraction(with(call, primals), result.saved, result.total_weight, tangents, wanted);
    for (size_t i = 0; i < wanted.size(); ++i) {
      at::Tensor& of = *result.differentiable()[i];
      if (wanted[i]) set_tangent(of, changes[i].to(of.scalar_type()));
    }
  }
  return result;
}

Layer backward(const ops::Gradients& grads, const LinearCall& call, const at::Tensor& saved,
               const at::Tensor& total_weight, Needs needs) {
  if (is_composed(call) || has_derivative(total_weight))
    return composed::backward(grads, call, saved, total_weight, needs);
  Layer result = [&] {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return ops::backward(grads, call, saved, total_weight, needs);
  }();
  ops::Gradients primal_grads, tangent_grads;
  bool record = any(required_of(call.layer)), by_grads = false;
  for (size_t i = 0; i < ops::Gradients::kCount; ++i) {
    const at::Tensor& grad = *grads.all()[i];
    record |= requires_grad(grad);
    *tangent_grads.all()[i] = tangent_of(grad);
    by_grads |= tangent_grads.all()[i]->defined();
    *primal_grads.all()[i] = primal_of(grad);
  }
  if (record) record_backward(result, grads, call, saved, total_weight);

  const Layer tangents = tangents_of(call.layer);
  if (by_grads || any_defined(tangents)) {
    // Linear in the incoming gradients, curved in the layer's tensors.
    const Layer primals = primals_of(call.layer);
    const LinearCall at_primals = with(call, primals);
    Layer linear, curved;
    if (by_grads) linear = ops::backward(tangent_grads, at_primals, saved, total_weight, needs);
    if (any_defined(tangents))
      curved = curvature(primal_grads, at_primals, saved, total_weight, tangents, needs);
    for (size_t i = 0; i < Layer::kCount; ++i) {
      if (!needs[i]) continue;
      const at::Tensor &a = *linear.all()[i], &b = *curved.all()[i];
      set_tangent(*result.all()[i], a.defined() && b.defined() ? a + b : a.defined() ? a : b);
    }
  }
  device::replace_undefined(result, call.layer.input, call.layer.input.scalar_type());
  return result;
}

}  // namespace fused_ce::linear::autograd
