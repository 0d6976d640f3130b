#include "autograd.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>

#include "arguments.h"
#include "derivatives.h"
#include "nodes.h"

namespace fused_ce::autograd {
namespace {

at::Tensor tangent_of(const at::Tensor& tensor) { return tensor._fw_grad(/*level=*/0); }

bool has_derivative(const at::Tensor& tensor) {
  return tensor.defined() &&
         ((at::GradMode::is_enabled() && tensor.requires_grad()) || tangent_of(tensor).defined());
}

// Whether the kernels' constants are none to this level of transforms.
bool is_composed(const Call& call) {
  return has_derivative(call.target) || has_derivative(call.weight);
}

void set_tangent(const at::Tensor& result, const at::Tensor& tangent) {
  result._set_fw_grad(tangent, /*level=*/0, /*is_inplace_op=*/false);
}

}  // namespace

ops::ForwardResult forward(const Call& call, std::optional<at::ScalarType> dtype, bool save) {
  const auto below = [&](bool saved) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return ops::forward(call, dtype, saved);
  };
  if (is_composed(call)) {
    check_forward(call, dtype);
    // A transform inside of this level may need the numbers, whose derivatives are nobody's affair:
    // backward computes with them only where it is not composed.
    ops::ForwardResult result = below(save);
    result.loss = composed_loss(call, dtype);
    return result;
  }
  const at::Tensor tangent = tangent_of(call.self);
  const bool record = at::GradMode::is_enabled() && call.self.requires_grad();
  const ops::ForwardResult result = below(save || record || tangent.defined());
  if (record) record_forward(result, call);
  if (tangent.defined()) {
    const at::Tensor primal = call.self._fw_primal(/*level=*/0);
    const Call at_primal{primal, call.target, call.weight, call.options};
    set_tangent(result.loss, contraction(at_primal, result.saved, result.total_weight, tangent)
                                 .to(result.loss.scalar_type()));
  }
  return result;
}

at::Tensor backward(const at::Tensor& grad_output, const Call& call, const at::Tensor& saved,
                    const at::Tensor& total_weight) {
  if (is_composed(call)) {
    check_backward(grad_output, call, saved, total_weight);
    return composed_gradient(grad_output, call, total_weight);
  }
  const auto result = [&] {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return ops::backward(grad_output, call, saved, total_weight);
  }();
  if (at::GradMode::is_enabled() && (call.self.requires_grad() || grad_output.requires_grad()))
    record_backward(result, grad_output, call, saved, total_weight);

  const at::Tensor by_grad = tangent_of(grad_output), by_self = tangent_of(call.self);
  if (!by_grad.defined() && !by_self.defined()) return result;
  // Linear in the incoming gradient, curved in the logits.
  const at::Tensor primal = call.self._fw_primal(/*level=*/0);
  const Call at_primal{primal, call.target, call.weight, call.options};
  at::Tensor tangent;
  if (by_grad.defined()) tangent = ops::backward(by_grad, at_primal, saved, total_weight);
  if (by_self.defined()) {
    const at::Tensor g = grad_output._fw_primal(/*level=*/0);
    const at::Tensor curved = curvature(g, at_primal, total_weight, by_self);
    tangent = tangent.defined() ? tangent + curved : curved;
  }
  set_tangent(result, tangent);
  return result;
}

}  // namespace fused_ce::autograd
