// Where a problem's rows and values lie in memory.
#pragma once

#include "numbers.cuh"

namespace fused_ce::cuda {

__device__ inline int64_t row_offset(const Problem& p, const Strides& s, int64_t row) {
  if (p.inner == 1) return row * s.outer;
  return row / p.inner * s.outer + row % p.inner * s.inner;
}

// The class of a row, or -1 where it is ignored. A class out of range trips an assertion, and is
// never used as an index.
__device__ inline int64_t read_target(const Problem& p, int64_t row) {
  const int64_t y = p.target_kind == TargetKind::kUInt8
                        ? static_cast<const uint8_t*>(p.target)[row]
                        : static_cast<const int64_t*>(p.target)[row];
  if (y == p.ignore_index) return -1;
  const bool in_range = y >= 0 && y < p.classes;
  assert(in_range && "fused_ce: Target is out of bounds: it must be in [0, C) or ignore_index");
  return in_range ? y : -1;
}

// The class index of a row, or -1 where there is none.
__device__ inline int64_t target_of(const Problem& p, int64_t row) {
  return p.target_kind == TargetKind::kProbabilities ? -1 : read_target(p, row);
}

// Where a row's probabilities begin, if it has any.
__device__ inline int64_t probabilities_offset(const Problem& p, int64_t row) {
  return p.target_kind == TargetKind::kProbabilities ? row_offset(p, p.target_strides, row) : 0;
}

// Which of the n classes from c on class y is; -1 if none of them.
__device__ __forceinline__ int place_of(int64_t y, int64_t c, int n) {
  const uint64_t place = static_cast<uint64_t>(y - c);
  return place < static_cast<uint64_t>(n) ? static_cast<int>(place) : -1;
}

template <class A>
__device__ __forceinline__ A weight_of(const Problem& p, int64_t c) {
  return p.weight ? static_cast<const A*>(p.weight)[c] : A(1);
}

// The gradient of a row's loss.
template <class A>
__device__ inline A read_grad(const Backward& back, int64_t row) {
  const A g = number_at<A>(back.grad, back.grad_dtype, row * back.grad_stride);
  return back.total_weight ? static_cast<A>(g / *back.total_weight) : g;
}

}  // namespace fused_ce::cuda
