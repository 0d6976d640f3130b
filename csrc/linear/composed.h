// The linear operators as compositions of a layer and the loss's own operators, with the logits
// there at once: for derivatives by class probabilities, weights, or what a mean divides by.
#pragma once

#include <optional>

#include "ops.h"

namespace fused_ce::linear::composed {

// The logits, in the type that forward computes them in.
at::Tensor logits(const Layer& layer);

ops::LinearResult forward(const LinearCall& call, std::optional<at::ScalarType> dtype, bool save);
Layer backward(const ops::Gradients& grads, const LinearCall& call, const at::Tensor& saved,
               const at::Tensor& total_weight, Needs needs);

}  // namespace fused_ce::linear::composed
