// SPDX-License-Identifier: BSD-3-Clause
// What is said of a class index that is none, on every path that finds one on the CPU.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <cstdint>
#include <vector>

namespace fused_ce {

[[noreturn]] inline void throw_out_of_range(const at::Tensor& target, int64_t row, int64_t classes,
                                            int64_t ignore_index) {
  const at::Tensor contiguous = target.contiguous();
  const int64_t value = contiguous.view(-1)[row].item<int64_t>();
  std::vector<int64_t> position(target.dim());
  for (int64_t d = target.dim() - 1; d >= 0; --d) {
    position[d] = row % target.size(d);
    row /= target.size(d);
  }
  TORCH_CHECK_INDEX(false, "Target ", value, " is out of bounds. target", at::IntArrayRef(position),
                    " is ", value, ", and must be in [0, ", classes, ") or equal to ignore_index (",
                    ignore_index, ")");
}

}  // namespace fused_ce
