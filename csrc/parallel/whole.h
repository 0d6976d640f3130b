// SPDX-License-Identifier: BSD-3-Clause
// What the slices of all processes come to together: numbers of the whole rows, and what a loss and
// its backward need of them. In double, so that nothing is lost to the exchange.
#pragma once

#include <ATen/core/Tensor.h>

#include "../ops.h"
#include "call.h"
#include "slices.h"

namespace fused_ce::parallel {

// Numbers of each row, (rows), double but for the prediction and what is saved. Undefined where
// they are not asked for.
struct RowResults {
  ops::ForwardResult result;  // loss, lse, entropy, prediction, confidence and saved
  WholeWeights weights;
};

// Exchanges what this process's slice comes to (SliceSums) with the others of the group, and
// finishes the rows. `weight_sum`: of this process's classes, where needed. One collective, an
// all-gather; of many rows on many processes two, a maximum and a sum, which are fewer bytes.
//
// With K the largest logit of a row, S_r the sum of e^(z_j - K_r) over the classes of process r but
// that of its own largest, K_r, and f_r = e^(K_r - K), the sum of all e^(z_j - K) but the largest's
// is S = sum_r f_r S_r + sum over the processes but the largest's of f_r: no term is negative, as
// in kernels/cpu/statistics.h, whose formulas follow from here.
RowResults exchange(const at::Tensor& sums, const at::Tensor& weight_sum, const ParallelCall& call);

}  // namespace fused_ce::parallel
