// SPDX-License-Identifier: BSD-3-Clause
// The public operators, made of rows: checks, row weights, reductions, types.
#pragma once

#include <c10/core/ScalarType.h>

#include <optional>
#include <string>
#include <vector>

#include "../ops.h"
#include "call.h"

namespace fused_ce::parallel {

// What the losses of rows are put together with; undefined where there is none.
struct Reduction {
  const at::Tensor& row_weight;
  const at::Tensor& normalizer;
  // Groups of processes over which rows are shared out as well: a sum or a mean is over all of
  // theirs.
  std::vector<std::string> row_groups;
};

using StatsFunction = ops::ForwardResult(const ParallelCall& call, const Reduction& reduction,
                                         std::optional<at::ScalarType> dtype);

using LinearStatsFunction = ops::ForwardResult(const ParallelLinearCall& call,
                                               const Reduction& reduction,
                                               std::optional<at::ScalarType> dtype);

ops::ForwardResult linear_cross_entropy_stats(const ParallelLinearCall& call,
                                              const Reduction& reduction,
                                              std::optional<at::ScalarType> dtype);
ops::ForwardResult cross_entropy_stats(const ParallelCall& call, const Reduction& reduction,
                                       std::optional<at::ScalarType> dtype);

}  // namespace fused_ce::parallel
