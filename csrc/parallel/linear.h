// SPDX-License-Identifier: BSD-3-Clause
// rows.h of a layer whose outputs are the logits.
#pragma once

#include "linear_slices.h"
#include "whole.h"

namespace fused_ce::parallel {

// Differentiable by the layer's tensors, twice; the second time with all logits of these classes at
// once. Every process of the group has the same input, and gets the same gradient of it: the sum of
// theirs, for which backward needs a collective of its own.
RowResults rows_of(const ParallelLinearCall& call);

}  // namespace fused_ce::parallel
