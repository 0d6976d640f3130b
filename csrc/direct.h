// SPDX-License-Identifier: BSD-3-Clause
// The way past the dispatcher for what most calls are: dense tensors of one device that nothing
// traces, transforms or watches. Every trip saved is a part of a small loss.
#pragma once

#include <optional>

#include "fused_ce.h"
#include "ops.h"

namespace fused_ce {

// Fills in the results, but for those that nobody asked for. False: the dispatcher has to be asked.
FUSED_CE_API bool direct(const Call& call, std::optional<at::ScalarType> dtype,
                         ops::ForwardResult& result);

// Whether this is such a tensor (which may be watched).
bool is_plain(const at::Tensor& tensor);

// The loss, all results, and the gradient, either way.
at::Tensor direct_or_dispatched(const Call& call);
ops::ForwardResult direct_or_dispatched_stats(const Call& call,
                                              std::optional<at::ScalarType> dtype);
at::Tensor direct_backward(const ops::Gradients& grads, const Call& call, const at::Tensor& saved,
                           const at::Tensor& total_weight);
void direct_backward_(const ops::Gradients& grads, const Call& call, const at::Tensor& saved,
                      const at::Tensor& total_weight);

}  // namespace fused_ce
