// SPDX-License-Identifier: BSD-3-Clause
// What processes have a part of each, and what all of them have and use for their part: each is the
// other's derivative, to any order.
#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/custom_function.h>

#include <string>

#include "collectives.h"

namespace fused_ce::parallel {

// The sum of the parts, on every process.
struct SumOfParts : torch::autograd::Function<SumOfParts> {
  static at::Tensor forward(torch::autograd::AutogradContext*, const at::Tensor& part,
                            const std::string& group) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return all_sum(part.contiguous(), group);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext*,
                                                 const torch::autograd::variable_list& grads) {
    return {grads[0], {}};
  }
};

// What all have, whose gradient is the sum of those of the parts that it is used for.
struct UsedInParts : torch::autograd::Function<UsedInParts> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& whole,
                            const std::string& group) {
    context->saved_data["group"] = group;
    return whole.view_as(whole);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grads) {
    return {SumOfParts::apply(grads[0], context->saved_data["group"].toStringRef()), {}};
  }
};

}  // namespace fused_ce::parallel
