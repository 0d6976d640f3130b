// Autocast: the loss is float, as torch's is, but half logits are not copied to float for it: the
// kernels accumulate in float anyway.
#pragma once

#include "ops.h"

namespace fused_ce::autocast {

// Whether this thread asks for it on the device of the logits.
bool is_enabled(const Call& call);

// For AutocastCPU and AutocastCUDA.
at::Tensor cross_entropy(const Call& call);
ops::ForwardResult cross_entropy_stats(const Call& call, std::optional<at::ScalarType> dtype);

}  // namespace fused_ce::autocast
