// SPDX-License-Identifier: BSD-3-Clause
#include "autograd.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include "arguments.h"
#include "composed.h"
#include "derivatives.h"
#include "nodes.h"
#include "tangent.h"

namespace fused_ce::autograd {

ops::ForwardResult forward(const Call& call, std::optional<at::ScalarType> dtype, bool save) {
  const auto below = [&](bool saved) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return ops::forward(call, dtype, saved);
  };
  if (composed::is_needed(call)) {
    check_forward(call, dtype);
    TORCH_CHECK(!(call.options.in_place && requires_grad(call.self)),
                "in_place: derivatives by target, weight, row_weight or normalizer need the logits "
                "that the gradient would overwrite");
    // A transform inside of this level may need the numbers, whose derivatives are nobody's affair:
    // backward computes with them only where it is not composed.
    ops::ForwardResult result = below(save);
    composed::replace(result, call, dtype);
    return result;
  }
  const at::Tensor tangent = tangent_of(call.self);
  const bool record = requires_grad(call.self);
  ops::ForwardResult result = below(save || record || tangent.defined());
  if (record) record_forward(result, call);
  if (tangent.defined()) {
    const at::Tensor primal = primal_of(call.self);
    const auto results = result.differentiable();
    for (size_t i = 0; i < results.size(); ++i) {
      if (!call.options.has_result(i)) continue;
      set_tangent(*results[i],
                  contraction(i, call.at(primal), result.saved, result.total_weight, tangent)
                      .to(results[i]->scalar_type()));
    }
  }
  return result;
}

at::Tensor backward(const ops::Gradients& grads, const Call& call, const at::Tensor& saved,
                    const at::Tensor& total_weight) {
  if (composed::is_needed(call) || has_derivative(total_weight)) {
    check_backward(grads, call, saved, total_weight);
    return composed::gradient(grads, call, total_weight);
  }
  const auto result = [&] {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return ops::backward(grads, call, saved, total_weight);
  }();
  ops::Gradients primals, tangents;
  bool record = requires_grad(call.self), by_grads = false;
  for (size_t i = 0; i < ops::Gradients::kCount; ++i) {
    const at::Tensor& grad = *grads.all()[i];
    if (!grad.defined()) continue;
    record |= requires_grad(grad);
    *tangents.all()[i] = tangent_of(grad);
    by_grads |= tangents.all()[i]->defined();
    *primals.all()[i] = primal_of(grad);
  }
  if (record) record_backward(result, grads, call, saved, total_weight);

  const at::Tensor by_self = tangent_of(call.self);
  if (!by_grads && !by_self.defined()) return result;
  // Linear in the incoming gradients, curved in the logits.
  const at::Tensor primal = primal_of(call.self);
  at::Tensor tangent;
  if (by_grads) tangent = ops::backward(tangents, call.at(primal), saved, total_weight);
  if (by_self.defined()) {
    const at::Tensor curved = curvature(primals, call.at(primal), total_weight, by_self);
    tangent = tangent.defined() ? tangent + curved : curved;
  }
  set_tangent(result, tangent);
  return result;
}

void backward_(const ops::Gradients& grads, const Call& call, const at::Tensor& saved,
               const at::Tensor& total_weight) {
  bool differentiated = has_derivative(call.self) || composed::is_needed(call);
  for (const at::Tensor* grad : grads.all()) differentiated |= has_derivative(*grad);
  TORCH_CHECK(!differentiated, "in_place: no derivative of a gradient that overwrites its logits");
  const at::AutoDispatchBelowAutograd guard;
  ops::backward_(grads, call, saved, total_weight);
}

void overwrite(const ops::Gradients& grads, const Call& call, const at::Tensor& saved,
               const at::Tensor& total_weight) {
  {
    const at::AutoDispatchBelowADInplaceOrView guard;
    ops::backward_(grads, call, saved, total_weight);
  }
  call.self.unsafeGetTensorImpl()->bump_version();
}

}  // namespace fused_ce::autograd
