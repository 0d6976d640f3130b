// cross_entropy in terms of the private operators.
#pragma once

#include "ops.h"

namespace fused_ce::composite {

at::Tensor cross_entropy(const Call& call);

// The same through the dispatcher, with the dtype of the loss given or torch's. What the kernels
// would refuse is refused here, in the words and the shapes of the caller: between here and there
// may be transforms, or no kernel.
at::Tensor dispatched(const Call& call, std::optional<at::ScalarType> dtype);

}  // namespace fused_ce::composite
