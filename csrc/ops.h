// SPDX-License-Identifier: BSD-3-Clause
// The operators: their functions' types, and how to call them through the dispatcher.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>

#include <array>
#include <optional>

#include "options.h"

namespace fused_ce::ops {

// What a loss has a gradient by, or is given one of: undefined where there is none.
struct Gradients {
  at::Tensor loss, z_loss, lse, entropy;
  static constexpr size_t kCount = 4;

  std::array<at::Tensor*, kCount> all() { return {&loss, &z_loss, &lse, &entropy}; }
  std::array<const at::Tensor*, kCount> all() const { return {&loss, &z_loss, &lse, &entropy}; }
};

// A dispatch key's kernels have these types; unboxed.h makes them what the dispatcher calls.
//
// forward: `dtype` of the loss, or nullopt: torch's for these arguments. Without `save`, nothing is
// computed for backward alone.
struct ForwardResult {
  at::Tensor loss;
  // What Options::outputs asks for. z_loss has the loss's shape and dtype; the others are one a
  // row.
  at::Tensor z_loss, lse, entropy, prediction, confidence;
  at::Tensor saved;         // with `save`: (3 or 4, rows), see kernels/problem.h; of one class not
                            // initialised
  at::Tensor total_weight;  // with `save`, of a mean: what it divides by, a double
  at::Tensor weight_sum;    // with `save`, past the dispatcher: see Call

  // The results that have derivatives, in the order of Gradients.
  std::array<at::Tensor*, Gradients::kCount> differentiable() {
    return {&loss, &z_loss, &lse, &entropy};
  }
};
using CrossEntropyFunction = at::Tensor(const Call& call);
// What forward saves is nobody's there.
using StatsFunction = ForwardResult(const Call& call, std::optional<at::ScalarType> dtype);
using PredictFunction = ForwardResult(const at::Tensor& self, const Options& options);
using ForwardFunction = ForwardResult(const Call& call, std::optional<at::ScalarType> dtype,
                                      bool save);
using BackwardFunction = at::Tensor(const Gradients& grads, const Call& call,
                                    const at::Tensor& saved, const at::Tensor& total_weight);
// Of backward_, which leaves the gradient where the logits were.
using InPlaceFunction = void(const Gradients& grads, const Call& call, const at::Tensor& saved,
                             const at::Tensor& total_weight);

at::Tensor cross_entropy(const Call& call);
ForwardResult cross_entropy_stats(const Call& call, std::optional<at::ScalarType> dtype);
ForwardResult predict(const at::Tensor& self, const Options& options);
ForwardResult forward(const Call& call, std::optional<at::ScalarType> dtype, bool save);
at::Tensor backward(const Gradients& grads, const Call& call, const at::Tensor& saved,
                    const at::Tensor& total_weight);
void backward_(const Gradients& grads, const Call& call, const at::Tensor& saved,
               const at::Tensor& total_weight);

}  // namespace fused_ce::ops
