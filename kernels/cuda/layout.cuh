// SPDX-License-Identifier: BSD-3-Clause
// Where a problem's rows and values lie in memory.
#pragma once

#include "numbers.cuh"

namespace fused_ce::cuda {

__device__ inline int64_t row_offset(const Problem& p, const Strides& s, int64_t row) {
  if (p.inner == 1) return row * s.outer;
  return row / p.inner * s.outer + row % p.inner * s.inner;
}

// Some of a row's classes, from `first` on, that a loop takes at once.
struct Chunk {
  int64_t first;
  int target;  // which of them is the row's target, counted from `first`; -1 or another
               // number if none is

  // n classes from c on; y: the row's target, or a NoClass.
  static __device__ __forceinline__ Chunk of(int64_t c, int n, int64_t y) {
    const uint64_t place = static_cast<uint64_t>(y - c);
    return {c, place < static_cast<uint64_t>(n) ? static_cast<int>(place) : -1};
  }
};

}  // namespace fused_ce::cuda
