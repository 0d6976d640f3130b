// SPDX-License-Identifier: BSD-3-Clause
#include "nodes.h"

#include <ATen/TensorOperators.h>
#include <c10/util/Exception.h>

#include <array>
#include <cmath>
#include <utility>

#include "../direct.h"
#include "../node.h"
#include "derivatives.h"
#include "rows.h"
#include "unboxed.h"

namespace fused_ce::linear {
namespace {

using torch::autograd::variable_list;

template <size_t kGradients>
struct Kept {
  ops::Gradients grads;
  Layer layer;
  at::Tensor target, weight, row_weight;
  at::Tensor saved, total_weight;
  Layer gradients;  // of the first node, where forward computed them
  LinearOptions options;
  bool is_last = false;

  LinearCall call() const { return {layer, target, weight, options, row_weight}; }

  auto variables() {
    std::array<at::Tensor*, kGradients + 6> all{&layer.input, &layer.weight, &layer.bias,
                                                &target,      &weight,       &row_weight};
    for (size_t i = 0; i < kGradients; ++i) all[6 + i] = grads.all()[i];
    return all;
  }
  auto constants() {
    return std::array{&saved, &total_weight, &gradients.input, &gradients.weight, &gradients.bias};
  }
};

at::Tensor or_nothing(const at::Tensor& total_weight, const at::Tensor& saved) {
  return total_weight.defined() ? total_weight : saved.new_empty({0});
}

// Of the loss and what else there is, by the layer's tensors.
struct FirstDerivative {
  static constexpr char kName[] = "fused_ce::LinearCrossEntropyBackward";
  static constexpr size_t kResults = Layer::kCount;
  static constexpr bool kGivesAway = true;
  using Kept = linear::Kept<0>;

  static variable_list of(const variable_list& incoming, Kept&& kept, Needs needs) {
    const ops::Gradients grads = gradients_of(incoming);
    if (is_of_loss_alone(grads) && has(kept.gradients, needs) && !is_infinite(grads.loss) &&
        !at::GradMode::is_enabled())
      return scaled(grads.loss, kept, needs);
    TORCH_CHECK(kept.saved.defined(),
                "Trying to backward through the graph a second time: what it needs was given away "
                "in the first (specify retain_graph=True)");
    Layer result = ops::backward(grads, kept.call(), kept.saved,
                                 or_nothing(kept.total_weight, kept.saved), needs);
    return {std::move(result.input), std::move(result.weight), std::move(result.bias)};
  }

 private:
  static bool is_of_loss_alone(const ops::Gradients& grads) {
    return !grads.z_loss.defined() && !grads.lse.defined() && !grads.entropy.defined();
  }
  // Of one number. The rows that do not count have 0, which times that were no number. (On a GPU
  // nobody waits to know.)
  static bool is_infinite(const at::Tensor& grad) {
    return grad.is_cpu() && is_plain(grad) && !std::isfinite(grad.item<double>());
  }
  static bool has(const Layer& gradients, Needs needs) {
    for (size_t i = 0; i < kResults; ++i) {
      if (needs[i] && !gradients.all()[i]->defined()) return false;
    }
    return true;
  }

  // What forward computed, times the incoming gradient: in its own memory where nobody will want it
  // again.
  static variable_list scaled(const at::Tensor& grad, Kept& kept, Needs needs) {
    const at::Tensor scale = gradient_scale(kept.call(), kept.total_weight);
    const at::Tensor factor = scale.defined() ? grad / scale : grad;
    const bool overwrites = kept.is_last && is_plain(grad);
    const bool is_one = factor.is_cpu() && is_plain(factor) && factor.item<double>() == 1;
    variable_list result(kResults);
    for (size_t i = 0; i < kResults; ++i) {
      if (!needs[i]) continue;
      at::Tensor& gradient = *kept.gradients.all()[i];
      at::Tensor scaled = !overwrites ? gradient * factor
                          : is_one    ? gradient
                                      : gradient.mul_(factor);
      gradient.reset();
      result[i] = scaled.to(kept.layer.input.scalar_type());
    }
    return result;
  }
};

// Of those gradients: by the incoming ones, and by the layer's tensors.
struct SecondDerivative {
  static constexpr char kName[] = "fused_ce::LinearCrossEntropyBackwardBackward";
  static constexpr size_t kGradients = ops::Gradients::kCount,
                          kResults = kGradients + Layer::kCount;
  static constexpr bool kGivesAway = false;
  using Kept = linear::Kept<kGradients>;

  static variable_list of(const variable_list& incoming, const Kept& kept,
                          std::array<bool, kResults> needs) {
    const Layer v{incoming[0], incoming[1], incoming[2]};
    const LinearCall call = kept.call();
    variable_list result(kResults);
    std::array<bool, kGradients> wanted{};
    bool any = false;
    for (size_t i = 0; i < kGradients; ++i)
      any |= wanted[i] = needs[i] && kept.grads.all()[i]->defined();
    if (any) {
      const Results by_grads = contraction(call, kept.saved, kept.total_weight, v, wanted);
      for (size_t i = 0; i < kGradients; ++i) {
        if (wanted[i]) result[i] = by_grads[i].to(kept.grads.all()[i]->scalar_type());
      }
    }
    const Needs of_layer{needs[kGradients], needs[kGradients + 1], needs[kGradients + 2]};
    Layer by_layer = curvature(kept.grads, call, kept.saved, kept.total_weight, v, of_layer);
    for (size_t i = 0; i < Layer::kCount; ++i)
      result[kGradients + i] = std::move(*by_layer.all()[i]);
    return result;
  }
};

}  // namespace

void record_forward(ops::LinearResult& result, const LinearCall& call, Needs needs) {
  auto node = make_node<FusedNode<FirstDerivative>>();
  const Layer& layer = call.layer;
  for (const at::Tensor* tensor : layer.all()) node->add_next_edge(edge_of(*tensor));
  // The others are empty tensors.
  const auto gradient = [&](size_t i) {
    return needs[i] ? result.gradients.all()[i] : &undefined();
  };
  const at::Tensor& total = call.options.is_mean() ? result.total_weight : undefined();
  node->keep(
      {&layer.input, &layer.weight, &layer.bias, &call.target, &call.weight, &call.row_weight},
      {&result.saved, &total, gradient(0), gradient(1), gradient(2)}, call.options);
  set_history(result, call.options, node);
}

void record_backward(Layer& gradients, const ops::Gradients& grads, const LinearCall& call,
                     const at::Tensor& saved, const at::Tensor& total_weight) {
  auto node = make_node<FusedNode<SecondDerivative>>();
  const Layer& layer = call.layer;
  for (const at::Tensor* grad : grads.all()) node->add_next_edge(edge_of(*grad));
  for (const at::Tensor* tensor : layer.all()) node->add_next_edge(edge_of(*tensor));
  const at::Tensor& none = undefined();
  node->keep({&layer.input, &layer.weight, &layer.bias, &call.target, &call.weight,
              &call.row_weight, &grads.loss, &grads.z_loss, &grads.lse, &grads.entropy},
             {&saved, &total_weight, &none, &none, &none}, call.options);
  for (at::Tensor* gradient : gradients.all()) torch::autograd::set_history(*gradient, node);
}

}  // namespace fused_ce::linear
