// SPDX-License-Identifier: BSD-3-Clause
// The private linear operators, as ../ops.h has those of the loss.
#pragma once

#include <optional>

#include "../ops.h"
#include "call.h"

namespace fused_ce::linear::ops {

using fused_ce::ops::ForwardResult;
using fused_ce::ops::Gradients;

struct LinearResult : ForwardResult {
  // Of the loss alone, times `gradient_scale`: those that were asked for, in the accumulate type.
  Layer gradients;
};

// The public ones: an input of any shape (*, K), a weight of (C, K) or (C, d1, ..., dK, K).
using LossFunction = at::Tensor(const LinearCall& call);
using StatsFunction = ForwardResult(const LinearCall& call, std::optional<at::ScalarType> dtype);

// forward: `needs` says which gradients of the loss are computed beside it, which is reduced then.
using ForwardFunction = LinearResult(const LinearCall& call, std::optional<at::ScalarType> dtype,
                                     bool save, Needs needs);
// backward: of the layer's dtypes; nothing where there is no need.
using BackwardFunction = Layer(const Gradients& grads, const LinearCall& call,
                               const at::Tensor& saved, const at::Tensor& total_weight,
                               Needs needs);

// Without chunk_rows, as many as are chosen; the call's own are not looked at.
ForwardResult linear_cross_entropy_stats(const LinearCall& call,
                                         std::optional<at::ScalarType> dtype,
                                         std::optional<c10::SymInt> chunk_rows);
LinearResult forward(const LinearCall& call, std::optional<at::ScalarType> dtype, bool save,
                     Needs needs);
Layer backward(const Gradients& grads, const LinearCall& call, const at::Tensor& saved,
               const at::Tensor& total_weight, Needs needs);

}  // namespace fused_ce::linear::ops
