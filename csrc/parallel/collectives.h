// SPDX-License-Identifier: BSD-3-Clause
// The collectives that a loss needs: torch.distributed's functional ones, which a trace records as
// any operator, on whatever backend the group has.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

namespace fused_ce::parallel {

// What each of the group's processes has, (size, ...), in the order of their ranks.
at::Tensor all_gather(const at::Tensor& own, int64_t size, const std::string& group);

// The sum and the maximum of what they have, the same bits on each.
at::Tensor all_sum(const at::Tensor& own, const std::string& group);
at::Tensor all_max(const at::Tensor& own, const std::string& group);

}  // namespace fused_ce::parallel
