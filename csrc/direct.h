// The way past the dispatcher for what most calls are: dense tensors of one device that nothing
// traces, transforms or watches. Every trip saved is a part of a small loss.
#pragma once

#include <optional>

#include "fused_ce.h"
#include "ops.h"

namespace fused_ce {

// The loss, or nullopt where the dispatcher has to be asked.
FUSED_CE_API std::optional<at::Tensor> direct(const Call& call);

// The loss, and the gradient, either way.
at::Tensor direct_or_dispatched(const Call& call);
at::Tensor direct_backward(const at::Tensor& grad_output, const Call& call, const at::Tensor& saved,
                           const at::Tensor& total_weight);

}  // namespace fused_ce
