// SPDX-License-Identifier: BSD-3-Clause
#include "nodes.h"

#include <array>
#include <utility>

#include "arguments.h"
#include "derivatives.h"
#include "direct.h"
#include "node.h"

namespace fused_ce {
namespace {

using torch::autograd::variable_list;

// Beside `kGradients` incoming gradients.
template <size_t kGradients>
struct Kept {
  ops::Gradients grads;
  at::Tensor self, target, weight, row_weight, saved, total_weight, weight_sum;
  Options options;

  Call call() const {
    return {self, target, weight, options, row_weight, undefined(), nullptr, weight_sum};
  }

  auto variables() {
    std::array<at::Tensor*, kGradients + 4> all{&self, &target, &weight, &row_weight};
    for (size_t i = 0; i < kGradients; ++i) all[4 + i] = grads.all()[i];
    return all;
  }
  auto constants() { return std::array{&saved, &total_weight, &weight_sum}; }
};

// Of the loss and what else there is: by the logits.
struct FirstDerivative {
  static constexpr char kName[] = "fused_ce::CrossEntropyBackward";
  static constexpr size_t kResults = 1;
  static constexpr bool kGivesAway = false;
  using Kept = fused_ce::Kept<0>;

  static variable_list of(const variable_list& incoming, const Kept& kept,
                          std::array<bool, kResults>) {
    const ops::Gradients grads = gradients_of(incoming);
    if (kept.options.in_place) return {overwritten(grads, kept)};
    return {direct_backward(grads, kept.call(), kept.saved, kept.total_weight)};
  }

 private:
  // The memory of the logits, with the gradient in it. Their version is one more, so that whoever
  // needs them later is told.
  static at::Tensor overwritten(const ops::Gradients& grads, const Kept& kept) {
    TORCH_CHECK(!at::GradMode::is_enabled(),
                "in_place: the gradient overwrites the logits that its own derivative would need "
                "(create_graph=True, or torch.func)");
    // is_grads_batched is torch's older vmap.
    constexpr c10::DispatchKeySet kBatched(
        {c10::DispatchKey::Batched, c10::DispatchKey::FuncTorchBatched});
    for (const at::Tensor* grad : grads.all())
      TORCH_CHECK(!grad->defined() || !grad->key_set().has_any(kBatched),
                  "in_place: the logits' memory has a place for one gradient, and each incoming "
                  "one of a batch has its own (is_grads_batched=True, or a vectorized jacobian)");
    const at::Tensor logits = kept.self.detach();
    direct_backward_(grads, kept.call().at(logits), kept.saved, kept.total_weight);
    return logits;
  }
};

// Of that gradient: by the incoming ones, and by the logits.
struct SecondDerivative {
  static constexpr char kName[] = "fused_ce::CrossEntropyBackwardBackward";
  static constexpr size_t kGradients = ops::Gradients::kCount, kResults = kGradients + 1;
  static constexpr bool kGivesAway = false;
  using Kept = fused_ce::Kept<kGradients>;

  static variable_list of(const variable_list& incoming, const Kept& kept,
                          std::array<bool, kResults> needs) {
    const at::Tensor& v = incoming[0];
    const Call call = kept.call();
    variable_list result(kResults);
    for (size_t i = 0; i < kGradients; ++i) {
      const at::Tensor& grad = *kept.grads.all()[i];
      if (!needs[i] || !grad.defined()) continue;
      result[i] = contraction(i, call, kept.saved, kept.total_weight, v).to(grad.scalar_type());
    }
    if (needs[kGradients]) result[kGradients] = curvature(kept.grads, call, kept.total_weight, v);
    return result;
  }
};

}  // namespace

void record_forward(ops::ForwardResult& result, const Call& call) {
  if (call.options.in_place) check_in_place(call);
  auto node = make_node<FusedNode<FirstDerivative>>();
  node->add_next_edge(torch::autograd::impl::gradient_edge(call.self));
  node->keep({&call.self, &call.target, &call.weight, &call.row_weight},
             {&result.saved, &result.total_weight, &result.weight_sum}, call.options);
  set_history(result, call.options, node);
}

void record_backward(const at::Tensor& gradient, const ops::Gradients& grads, const Call& call,
                     const at::Tensor& saved, const at::Tensor& total_weight) {
  auto node = make_node<FusedNode<SecondDerivative>>();
  for (const at::Tensor* grad : grads.all()) node->add_next_edge(edge_of(*grad));
  node->add_next_edge(edge_of(call.self));
  node->keep({&call.self, &call.target, &call.weight, &call.row_weight, &grads.loss, &grads.z_loss,
              &grads.lse, &grads.entropy},
             {&saved, &total_weight, &call.weight_sum}, call.options);
  torch::autograd::set_history(gradient, node);
}

}  // namespace fused_ce
