// SPDX-License-Identifier: BSD-3-Clause
// Autocast: the loss is float, as torch's is, but half logits are not copied to float for it: the
// kernels accumulate in float anyway.
#pragma once

#include "ops.h"

namespace fused_ce::autocast {

// Whether this thread asks for it on the device of the logits, or of what they are made of.
bool is_enabled(const at::Tensor& self);

// The dtype torch's autocast gives an operator of its float32 list: half becomes float, double
// stays.
at::ScalarType wide(at::ScalarType type);

// For AutocastCPU and AutocastCUDA.
at::Tensor cross_entropy(const Call& call);
ops::ForwardResult cross_entropy_stats(const Call& call, std::optional<at::ScalarType> dtype);

}  // namespace fused_ce::autocast
