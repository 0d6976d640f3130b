// SPDX-License-Identifier: BSD-3-Clause
// A part of a tensor along a dimension.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace fused_ce::linear {

// The tensor itself where that is all of it: views are a good part of what a small loss costs.
inline at::Tensor part_of(const at::Tensor& tensor, int64_t dim, int64_t begin, int64_t size) {
  return begin == 0 && size == tensor.size(dim) ? tensor : tensor.narrow(dim, begin, size);
}

}  // namespace fused_ce::linear
