// SPDX-License-Identifier: BSD-3-Clause
#include "rows.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/scalar_tensor.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <array>
#include <utility>

#include "../arguments.h"
#include "../node.h"
#include "../shapes.h"
#include "../tangent.h"
#include "derivatives.h"

namespace fused_ce::parallel {
namespace {

using torch::autograd::variable_list;

constexpr char kFunction[] = "the loss of shared-out classes";

// Beside `kGradients` incoming gradients: none, or the loss's, lse's and the entropy's.
template <size_t kGradients>
struct Kept {
  ops::Gradients grads;
  at::Tensor self, target, weight, saved;
  WholeWeights weights;
  ParallelOptions options;

  ParallelCall call() const { return {self, target, weight, options}; }

  auto variables() {
    std::array<at::Tensor*, kGradients + 3> all{&self, &target, &weight};
    if constexpr (kGradients > 0)
      all[3] = &grads.loss, all[4] = &grads.lse, all[5] = &grads.entropy;
    return all;
  }
  auto constants() { return std::array{&saved, &weights.target_weight, &weights.weight_sum}; }
};

at::Tensor backward(const ops::Gradients& grads, const ParallelCall& call,
                    const WholeWeights& weights, const at::Tensor& saved);

struct FirstDerivative {
  static constexpr char kName[] = "fused_ce::ParallelCrossEntropyBackward";
  static constexpr size_t kResults = 1;
  static constexpr bool kGivesAway = false;
  using Kept = parallel::Kept<0>;

  static variable_list of(const variable_list& incoming, const Kept& kept,
                          std::array<bool, kResults>) {
    return {backward(gradients_of(incoming), kept.call(), kept.weights, kept.saved)};
  }
};

// By the incoming gradients, and by the logits.
struct SecondDerivative {
  static constexpr char kName[] = "fused_ce::ParallelCrossEntropyBackwardBackward";
  static constexpr size_t kResults = 4;
  static constexpr bool kGivesAway = false;
  using Kept = parallel::Kept<3>;

  static variable_list of(const variable_list& incoming, const Kept& kept,
                          std::array<bool, kResults>) {
    const ops::Gradients& g = kept.grads;
    Derivatives d = derivatives(g, kept.call(), kept.weights, kept.saved, incoming[0]);
    const auto of = [](const at::Tensor& value, const at::Tensor& grad) {
      return grad.defined() ? value.to(grad.scalar_type()) : at::Tensor();
    };
    return {of(d.by_loss, g.loss), of(d.by_lse, g.lse), of(d.by_entropy, g.entropy), d.by_logits};
  }
};

at::Tensor backward(const ops::Gradients& grads, const ParallelCall& call,
                    const WholeWeights& weights, const at::Tensor& saved) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  for (const at::Tensor* tensor : {&grads.loss, &grads.lse, &grads.entropy, &call.self})
    check_no_tangent(*tensor, kFunction);
  at::Tensor gradient;
  {
    const at::AutoDispatchBelowADInplaceOrView guard;
    gradient = slice_backward(grads, call, weights, saved);
  }
  bool records = requires_grad(call.self);
  for (const at::Tensor* grad : grads.all()) records |= requires_grad(*grad);
  if (!records) return gradient;
  auto node = make_node<FusedNode<SecondDerivative>>();
  for (const at::Tensor* tensor : {&grads.loss, &grads.lse, &grads.entropy, &call.self})
    node->add_next_edge(edge_of(*tensor));
  node->keep({&call.self, &call.target, &call.weight, &grads.loss, &grads.lse, &grads.entropy},
             {&saved, &weights.target_weight, &weights.weight_sum}, call.options);
  torch::autograd::set_history(gradient, node);
  return gradient;
}

}  // namespace

at::Tensor own_weight_sum(const ParallelCall& call) {
  if (!is_smoothed(call)) return {};
  if (call.weight.defined()) return call.weight.sum(at::kDouble);
  const at::Tensor& logits = call.self;
  return at::scalar_tensor(logits.sym_size(class_dim(logits)), logits.options().dtype(at::kDouble));
}

bool has_all_classes(const ParallelOptions& options, const c10::SymInt& own) {
  return options.group_size == 1 && TORCH_GUARD_OR_FALSE(own.sym_eq(options.classes));
}

RowResults as_rows(const ops::ForwardResult& result, const at::Tensor& logits,
                   const ParallelCall& call) {
  RowResults rows{result, {}};
  for (at::Tensor* numbers : {&rows.result.lse, &rows.result.entropy, &rows.result.confidence})
    *numbers = numbers->to(at::kDouble);
  if (is_probabilities(logits, call.target)) return rows;
  const at::Tensor counts = call.target.ne(at::Scalar(call.options.ignore_index));
  at::Tensor& weight = rows.weights.target_weight = counts.to(at::kDouble);
  if (call.weight.defined()) {
    const at::Tensor index = call.target.to(at::kLong).masked_fill(counts.logical_not(), 0);
    weight = weight * call.weight.to(at::kDouble).index_select(0, index.reshape(-1)).view_as(index);
  }
  return rows;
}

RowResults rows_of(const ParallelCall& call) {
  if (has_all_classes(call.options, call.self.sym_size(class_dim(call.self))))
    return as_rows(fused_ce::ops::cross_entropy_stats(call.call(nullptr), at::kDouble), call.self,
                   call);
  check_no_tangent(call.self, kFunction);
  RowResults rows;
  const c10::SymDimVector shape = row_shape(call.self);
  {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const at::Tensor weight_sum = own_weight_sum(call);
    rows = exchange(slice_sums(call, weight_sum), weight_sum, call);
    ops::ForwardResult& r = rows.result;
    for (at::Tensor* numbers :
         {&r.loss, &r.lse, &r.entropy, &r.prediction, &r.confidence, &rows.weights.target_weight}) {
      if (numbers->defined()) *numbers = numbers->reshape_symint(shape);
    }
  }
  if (!requires_grad(call.self)) return rows;
  auto node = make_node<FusedNode<FirstDerivative>>();
  node->add_next_edge(torch::autograd::impl::gradient_edge(call.self));
  node->keep({&call.self, &call.target, &call.weight},
             {&rows.result.saved, &rows.weights.target_weight, &rows.weights.weight_sum},
             call.options);
  set_history(rows.result, call.options, node);
  return rows;
}

}  // namespace fused_ce::parallel
