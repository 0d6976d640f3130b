// SPDX-License-Identifier: BSD-3-Clause
// The public operators in terms of the private ones.
#pragma once

#include "ops.h"

namespace fused_ce::composite {

at::Tensor cross_entropy(const Call& call);

// The last two results are nobody's, here and below.
ops::ForwardResult cross_entropy_stats(const Call& call, std::optional<at::ScalarType> dtype);

// What of that needs no target.
ops::ForwardResult predict(const at::Tensor& self, const Options& options);

// cross_entropy_stats through the dispatcher, with the dtype of the loss given or torch's. What the
// kernels would refuse is refused here, in the words and the shapes of the caller: between here and
// there may be transforms, or no kernel.
ops::ForwardResult dispatched(const Call& call, std::optional<at::ScalarType> dtype);

}  // namespace fused_ce::composite
