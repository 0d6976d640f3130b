// SPDX-License-Identifier: BSD-3-Clause
#include "composed.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cross_entropy_loss.h>

#include "arguments.h"
#include "formula.h"
#include "shapes.h"
#include "tangent.h"
#include "unboxed.h"

namespace fused_ce::composed {
namespace {

// torch's loss of each row of logits. Everything else that has a floating point type gets theirs,
// and class indices the type that torch takes.
at::Tensor row_losses(const at::Tensor& logits, const Call& call) {
  const at::ScalarType type = logits.scalar_type();
  const bool indices = !is_probabilities(call.self, call.target);
  const at::Tensor weight = call.weight.defined() ? call.weight.to(type) : call.weight;
  return at::cross_entropy_loss_symint(logits, call.target.to(indices ? at::kLong : type),
                                       optional_if_defined(weight), at::Reduction::None,
                                       call.options.ignore_index, call.options.label_smoothing)
      .reshape_symint(row_shape(call.self));
}

}  // namespace

bool is_needed(const Call& call) {
  return has_derivative(call.target) || has_derivative(call.weight) ||
         has_derivative(call.row_weight) || has_derivative(call.normalizer);
}

void replace(ops::ForwardResult& result, const Call& call, std::optional<at::ScalarType> dtype) {
  const Options& options = call.options;
  // What ignored rows hold is no number of theirs: a product with a gradient of 0 would be none.
  const at::Tensor counted = formula::without_ignored(call.self, call);
  const formula::Softmax softmax(call.at(counted));
  const at::Tensor total = formula::total_weight(call);
  // As torch: double probabilities make a double loss of float logits.
  const at::ScalarType loss_dtype = dtype ? *dtype : loss_type(call.self.scalar_type(), call);
  const at::ScalarType wide = c10::promoteTypes(loss_dtype, softmax.z.scalar_type());
  const auto reduced = [&](at::Tensor rows) {
    if (call.row_weight.defined()) rows = rows * call.row_weight.to(wide);
    if (!options.by_row()) rows = rows.sum();
    return (options.is_mean() ? rows / total.to(wide) : rows).to(loss_dtype);
  };
  const auto of_rows = [&](const at::Tensor& values) {
    return formula::without_ignored(values, call).squeeze(softmax.dim);
  };

  at::Tensor losses = row_losses(softmax.z.to(wide), call);
  if (options.z_loss_weight != 0 || options.wants(kZLoss)) {
    const at::Tensor z_losses = of_rows(softmax.lse.to(wide).square() * options.z_loss_weight);
    losses = losses + z_losses;
    if (options.wants(kZLoss)) result.z_loss = reduced(z_losses);
  }
  result.loss = reduced(losses);
  if (options.wants(kLse)) result.lse = of_rows(softmax.lse);
  if (options.wants(kEntropy)) result.entropy = of_rows(softmax.entropy());
  if (result.total_weight.dim() == 0) result.total_weight = total;
}

at::Tensor gradient(const ops::Gradients& grads, const Call& call, const at::Tensor& total_weight) {
  const formula::Softmax softmax(call);
  const ops::Gradients g = formula::by_row(grads, call, total_weight);
  const at::Tensor by_z = formula::gradient(g, call, softmax);
  return formula::without_ignored(by_z * formula::slope(call, softmax.z), call)
      .to(call.self.scalar_type());
}

}  // namespace fused_ce::composed
