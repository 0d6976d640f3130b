// SPDX-License-Identifier: BSD-3-Clause
#include "composite.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/stack.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include "../arguments.h"
#include "../autocast.h"
#include "../device.h"
#include "../linear/arguments.h"
#include "../linear/composite.h"
#include "../shapes.h"
#include "../tangent.h"
#include "linear.h"
#include "parts.h"
#include "rows.h"

namespace fused_ce::parallel {
namespace {

// The loss of the rows' losses, and their z-losses: differentiable by all that is in it.
struct Losses {
  at::Tensor loss, z_loss;
};

// What a mean over the rows of this process divides by.
at::Tensor weight_of(const RowResults& rows, const at::Tensor& row_weight) {
  const at::Tensor& loss = rows.result.loss;
  const at::Tensor& weight = rows.weights.target_weight;
  if (weight.defined()) return (row_weight.defined() ? weight * row_weight : weight).sum();
  if (row_weight.defined()) return row_weight.sum();
  return at::full({}, loss.sym_numel(), loss.options());
}

Losses losses_of(const RowResults& rows, const Options& o, const Reduction& given,
                 at::ScalarType dtype) {
  const bool wants_z = o.z_loss_weight != 0 || o.wants(kZLoss);
  const at::Tensor row_weight =
      given.row_weight.defined() ? given.row_weight.to(at::kDouble) : given.row_weight;
  at::Tensor loss = rows.result.loss, z_loss;
  if (wants_z) {
    z_loss = rows.result.lse.square() * o.z_loss_weight;
    loss = loss + z_loss;
  }
  if (row_weight.defined()) {
    loss = loss * row_weight;
    if (wants_z) z_loss = z_loss * row_weight;
  }
  if (!o.by_row()) {
    std::vector<at::Tensor> sums = {loss.sum(), wants_z ? z_loss.sum() : loss.new_zeros({})};
    const bool divides_by_rows = o.is_mean() && !given.normalizer.defined();
    if (divides_by_rows) sums.push_back(weight_of(rows, row_weight));
    at::Tensor all = at::stack(sums);
    for (const std::string& group : given.row_groups) all = SumOfParts::apply(all, group);
    if (divides_by_rows) {
      all = all / all.select(0, 2);
    } else if (o.is_mean()) {
      all = all / given.normalizer.to(loss.device(), at::kDouble);
    }
    loss = all.select(0, 0), z_loss = all.select(0, 1);
  }
  const auto own = [&](const at::Tensor& t) {  // no view of what both lie in
    return t.to(dtype, /*non_blocking=*/false, /*copy=*/true);
  };
  return {own(loss), wants_z ? own(z_loss) : at::Tensor()};
}

// What a row's numbers are asked for: no reduction, and what the losses are made of.
ParallelOptions of_rows(const ParallelOptions& options) {
  ParallelOptions o = options;
  o.reduction = at::Reduction::None;
  o.outputs[kLse] |= o.z_loss_weight != 0 || o.outputs[kZLoss];
  o.outputs[kZLoss] = false;
  o.z_loss_weight = 0;
  return o;
}

void check_constant(const at::Tensor& tensor, const char* name) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      !has_derivative(tensor), "fused_ce: ", name,
      " requires grad, and a loss whose classes are shared out to processes "
      "is not differentiated by it: detach it");
}

// What was asked for, from what is known of the rows. `self`: has the type of the logits.
ops::ForwardResult stats_of(const RowResults& rows, const at::Tensor& self, const Options& options,
                            const Reduction& reduction, at::ScalarType dtype) {
  const Losses losses = losses_of(rows, options, reduction, dtype);
  const at::ScalarType accumulate = accumulate_type(self);
  ops::ForwardResult result;
  result.loss = losses.loss;
  if (options.wants(kZLoss)) result.z_loss = losses.z_loss;
  if (options.wants(kLse)) result.lse = rows.result.lse.to(accumulate);
  if (options.wants(kEntropy)) result.entropy = rows.result.entropy.to(accumulate);
  if (options.wants(kPrediction)) {
    result.prediction = rows.result.prediction;
    result.confidence = rows.result.confidence.to(accumulate);
  }
  fused_ce::device::replace_undefined(result, self);
  return result;
}

}  // namespace

ops::ForwardResult cross_entropy_stats(const ParallelCall& call, const Reduction& reduction,
                                       std::optional<at::ScalarType> dtype) {
  const auto& [self, target, weight, options] = call;
  const Call here{self, target, weight, options, reduction.row_weight, reduction.normalizer};
  if (!dtype && self.defined() && target.defined() && autocast::is_enabled(self))
    dtype = loss_type(autocast::wide(self.scalar_type()), here);
  const at::ScalarType type = check_forward(here, dtype);
  check_constant(weight, "weight");
  check_constant(target, "target");
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const ParallelOptions of = of_rows(options);
  return stats_of(rows_of(ParallelCall{self, target, weight, of}), self, options, reduction, type);
}

ops::ForwardResult linear_cross_entropy_stats(const ParallelLinearCall& call,
                                              const Reduction& reduction,
                                              std::optional<at::ScalarType> dtype) {
  linear::check_layer(call.layer);
  linear::check_defined(call.target, "target");
  const bool autocasts = autocast::is_enabled(call.layer.input);
  const linear::Layer layer =
      autocasts ? linear::composite::autocast_layer(call.layer) : call.layer;
  if (!dtype && autocasts)
    dtype = call.layer.input.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);

  TORCH_CHECK_NOT_IMPLEMENTED(layer.weight.dim() == 2,
                              "fused_ce: linear_weight must be (classes of this process, K), got ",
                              layer.weight.sym_sizes());
  const c10::SymIntArrayRef batch = layer.input.sym_sizes().slice(0, layer.input.dim() - 1);
  c10::SymDimVector logits(batch.begin(), batch.end());
  logits.push_back(layer.weight.sym_size(0));
  const bool probabilities =
      is_probabilities(linear::absent_logits(layer.input, logits), call.target);
  linear::composite::check_shape(call.target, "target",
                                 probabilities ? c10::SymIntArrayRef(logits) : batch, layer.input);
  if (reduction.row_weight.defined())
    linear::composite::check_shape(reduction.row_weight, "row_weight", batch, layer.input);
  const auto [matrix, target, row_weight] =
      linear::composite::rows_of(layer, call.target, probabilities, reduction.row_weight);
  const at::Tensor absent =
      linear::absent_logits(matrix.input, {matrix.input.sym_size(0), matrix.weight.sym_size(0)});
  const at::ScalarType type = check_forward(
      {absent, target, call.weight, call.options, row_weight, reduction.normalizer}, dtype);
  check_constant(call.weight, "weight");
  check_constant(call.target, "target");

  const ParallelOptions of = of_rows(call.options);
  ops::ForwardResult result =
      stats_of(rows_of(ParallelLinearCall{matrix, target, call.weight, of}), absent, call.options,
               {row_weight, reduction.normalizer, reduction.row_groups}, type);
  linear::composite::unflatten(result, call.options, batch);
  return result;
}

}  // namespace fused_ce::parallel
