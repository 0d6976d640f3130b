// The operators: their functions' types, and how to call them through the dispatcher.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>

#include <optional>
#include <tuple>

#include "options.h"

namespace fused_ce::ops {

// A dispatch key's kernels have these types; unboxed.h makes them what the dispatcher calls.
//
// forward: `dtype` of the loss, or nullopt: torch's for these arguments. Without `save`, nothing is
// computed for backward alone.
using CrossEntropyFunction = at::Tensor(const Call& call);
struct ForwardResult {
  at::Tensor loss;
  at::Tensor saved;  // with `save`: (3, rows), see kernels/problem.h; of one class not initialised
  at::Tensor total_weight;  // with `save`, of a mean: what it divides by, a double
};
using ForwardFunction = ForwardResult(const Call& call, std::optional<at::ScalarType> dtype,
                                      bool save);
using BackwardFunction = at::Tensor(const at::Tensor& grad_output, const Call& call,
                                    const at::Tensor& saved, const at::Tensor& total_weight);

at::Tensor cross_entropy(const Call& call);
ForwardResult forward(const Call& call, std::optional<at::ScalarType> dtype, bool save);
at::Tensor backward(const at::Tensor& grad_output, const Call& call, const at::Tensor& saved,
                    const at::Tensor& total_weight);

}  // namespace fused_ce::ops
