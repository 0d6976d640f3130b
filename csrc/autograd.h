// The private operators where derivatives are taken: they record what happens in the graph, and
// carry forward-mode tangents. `self`, `grad_output` have derivatives by the kernels; where class
// probabilities or weights want one as well, torch's own composition answers.
#pragma once

#include "ops.h"

namespace fused_ce::autograd {

ops::ForwardResult forward(const Call& call, std::optional<at::ScalarType> dtype, bool save);
at::Tensor backward(const at::Tensor& grad_output, const Call& call, const at::Tensor& saved,
                    const at::Tensor& total_weight);

}  // namespace fused_ce::autograd
