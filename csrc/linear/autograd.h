// SPDX-License-Identifier: BSD-3-Clause
// The private linear operators where derivatives are taken, as ../autograd.h.
#pragma once

#include <optional>

#include "ops.h"

namespace fused_ce::linear::autograd {

ops::LinearResult forward(const LinearCall& call, std::optional<at::ScalarType> dtype, bool save,
                          Needs needs);
Layer backward(const ops::Gradients& grads, const LinearCall& call, const at::Tensor& saved,
               const at::Tensor& total_weight, Needs needs);

}  // namespace fused_ce::linear::autograd
