// SPDX-License-Identifier: BSD-3-Clause
#include "derivatives.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/ones.h>

#include "arguments.h"
#include "formula.h"
#include "shapes.h"

namespace fused_ce {
at::Tensor contraction(size_t result, const Call& call, const at::Tensor& saved,
                       const at::Tensor& total_weight, const at::Tensor& v) {
  const at::ScalarType type = accumulate_type(call.self);
  Options options = call.options;
  options.reduction = at::Reduction::None;
  // Row by row: in half precision, the gradient of a mean over many would be nothing.
  ops::Gradients ones;
  *ones.all()[result] = at::ones_symint(row_shape(call.self), call.self.options().dtype(type));
  const at::Tensor gradient = ops::backward(ones, call.with(options), saved, total_weight);
  // Ignored rows have no gradient, and times what is no number there it would be none.
  const at::Tensor products = formula::without_ignored(gradient.to(type) * v.to(type), call);
  const at::Tensor rows = products.sum(class_dim(call.self));
  const bool is_reduced = result < 2 && !call.options.by_row();  // the loss and the z-loss
  if (!is_reduced) return rows;
  return call.options.is_mean() ? rows.sum() / total_weight.to(type) : rows.sum();
}

at::Tensor curvature(const ops::Gradients& grads, const Call& call, const at::Tensor& total_weight,
                     const at::Tensor& v) {
  const ops::Gradients g = formula::by_row(grads, call, total_weight);
  const formula::Softmax softmax(call);
  const at::Tensor &z = softmax.z, &p = softmax.p;
  const at::Tensor slope = formula::slope(call, z);
  const at::Tensor u = v.to(z.scalar_type()) * slope;
  const at::Tensor mean = softmax.sum(p * u), centered = u - mean;

  // The Hessian by z applied to u, over p. Of a log-sum-exp it is u_j - mean, of its square a
  // multiple of that and 2 mean; the entropy's gradient is p_j e_j with e_j = -log p_j - H.
  at::Tensor hessian = formula::lse_factor(g, call, softmax) * centered +
                       formula::squared_lse_factor(g, call) * 2 * mean;
  if (g.entropy.defined()) {
    const at::Tensor e = softmax.excess();
    hessian = hessian + g.entropy * (centered * (e - 1) - softmax.sum(p * e * u));
  }
  at::Tensor result = p * hessian * slope;
  // A cap bends: dz_j/dx_j has a derivative of its own.
  if (const double cap = call.options.cap(); cap != 0) {
    const at::Tensor bend = z * (-2 * call.options.scale() / (cap * cap));
    result = result + formula::gradient(g, call, softmax) * u * bend;
  }
  return formula::without_ignored(result, call).to(call.self.scalar_type());
}

}  // namespace fused_ce
