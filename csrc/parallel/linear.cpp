// SPDX-License-Identifier: BSD-3-Clause
#include "linear.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/linear.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/autograd.h>

#include <array>
#include <utility>

#include "../arguments.h"
#include "../linear/arguments.h"
#include "../linear/ops.h"
#include "../node.h"
#include "../tangent.h"
#include "collectives.h"
#include "parts.h"
#include "rows.h"

namespace fused_ce::parallel {
namespace {

using linear::Layer;
using linear::Needs;
using torch::autograd::variable_list;

struct Kept {
  Layer layer;
  at::Tensor target, weight, saved;
  WholeWeights weights;
  ParallelOptions options;

  ParallelLinearCall call() const { return {layer, target, weight, options}; }
  auto variables() {
    return std::array{&layer.input, &layer.weight, &layer.bias, &target, &weight};
  }
  auto constants() { return std::array{&saved, &weights.target_weight, &weights.weight_sum}; }
};

struct LinearDerivative {
  static constexpr char kName[] = "fused_ce::ParallelLinearCrossEntropyBackward";
  static constexpr size_t kResults = Layer::kCount;
  static constexpr bool kGivesAway = false;
  using Kept = parallel::Kept;

  static variable_list of(const variable_list& incoming, const Kept& kept, Needs needs) {
    // The layer's type is what forward had.
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const ops::Gradients grads = gradients_of(incoming);
    if (at::GradMode::is_enabled()) return differentiable(grads, kept, needs);
    const ParallelLinearCall call = kept.call();
    const at::AutoDispatchBelowADInplaceOrView guard;
    Layer result = slice_linear_backward(grads, call, kept.weights, kept.saved, needs);
    if (needs[0]) {
      if (call.options.group_size > 1)
        result.input = all_sum(result.input, call.options.group_name);
      result.input = result.input.to(call.layer.input.scalar_type());
    }
    return {std::move(result.input), std::move(result.weight), std::move(result.bias)};
  }

 private:
  // The same by autograd's rules, from logits that are there at once.
  static variable_list differentiable(const ops::Gradients& grads, const Kept& kept, Needs needs) {
    // By aliases: hooks of the tensors themselves are for what comes out of here.
    Layer aliases;
    for (size_t i = 0; i < kResults; ++i) {
      const at::Tensor& tensor = *kept.layer.all()[i];
      if (tensor.defined()) *aliases.all()[i] = tensor.view_as(tensor);
    }
    const ParallelLinearCall call{aliases, kept.target, kept.weight, kept.options};
    const auto& [input, weight, bias] = call.layer;
    const at::Tensor used =
        call.options.group_size > 1 ? UsedInParts::apply(input, call.options.group_name) : input;
    const at::Tensor logits = at::linear(used, weight, bias);
    const RowResults rows = rows_of(call.at(logits));
    variable_list outputs, given, inputs;
    const auto add = [&](const at::Tensor& output, const at::Tensor& grad) {
      if (grad.defined()) outputs.push_back(output), given.push_back(grad);
    };
    add(rows.result.loss, grads.loss);
    add(rows.result.lse, grads.lse);
    add(rows.result.entropy, grads.entropy);
    for (size_t i = 0; i < kResults; ++i) {
      if (needs[i]) inputs.push_back(*call.layer.all()[i]);
    }
    const variable_list found = torch::autograd::grad(outputs, inputs, given, /*retain_graph=*/true,
                                                      /*create_graph=*/true);
    variable_list result(kResults);
    for (size_t i = 0, next = 0; i < kResults; ++i) {
      if (needs[i]) result[i] = found[next++];
    }
    return result;
  }
};

}  // namespace

RowResults rows_of(const ParallelLinearCall& call) {
  RowResults rows;
  const Layer& layer = call.layer;
  const at::Tensor absent =
      linear::absent_logits(layer.input, {layer.input.sym_size(0), layer.weight.sym_size(0)});
  const ParallelCall here = call.at(absent);
  if (has_all_classes(call.options, layer.weight.sym_size(0))) {
    const linear::LinearOptions options = linear_options(call.options);
    return as_rows(linear::ops::linear_cross_entropy_stats(
                       {layer, call.target, call.weight, options}, at::kDouble,
                       options.chunk_rows > 0 ? std::optional(options.chunk_rows) : std::nullopt),
                   absent, here);
  }
  for (const at::Tensor* tensor : layer.all())
    check_no_tangent(*tensor, "the layer's loss of shared-out classes");
  {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const at::Tensor weight_sum = own_weight_sum(here);
    rows = exchange(slice_linear_sums(call, weight_sum), weight_sum, here);
  }
  bool records = false;
  for (const at::Tensor* tensor : layer.all()) records |= requires_grad(*tensor);
  if (!records) return rows;
  auto node = make_node<FusedNode<LinearDerivative>>();
  for (const at::Tensor* tensor : layer.all()) node->add_next_edge(edge_of(*tensor));
  node->keep({&layer.input, &layer.weight, &layer.bias, &call.target, &call.weight},
             {&rows.result.saved, &rows.weights.target_weight, &rows.weights.weight_sum},
             call.options);
  set_history(rows.result, call.options, node);
  return rows;
}

}  // namespace fused_ce::parallel
