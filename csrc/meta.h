// SPDX-License-Identifier: BSD-3-Clause
// Shapes, dtypes and layouts of the private operators' results: for meta and fake tensors.
#pragma once

#include "ops.h"

namespace fused_ce::meta {

ops::ForwardResult forward(const Call& call, std::optional<at::ScalarType> dtype, bool save);
at::Tensor backward(const ops::Gradients& grads, const Call& call, const at::Tensor& saved,
                    const at::Tensor& total_weight);
void backward_(const ops::Gradients& grads, const Call& call, const at::Tensor& saved,
               const at::Tensor& total_weight);

}  // namespace fused_ce::meta
