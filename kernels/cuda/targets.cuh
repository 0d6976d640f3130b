// SPDX-License-Identifier: BSD-3-Clause
// Reading what rows are held against, and what backward is given of them: class indices, where
// probabilities begin, the numbers that forward left, the gradients of losses.
#pragma once

#include "layout.cuh"
#include "math.cuh"

namespace fused_ce::cuda {

// Whether a row's target is one class at hand: else it is a NoClass.
__device__ __forceinline__ bool is_class(int64_t y) { return y >= 0; }
// Whether it is one class, here or elsewhere.
__device__ __forceinline__ bool is_any_class(int64_t y) { return y >= kElsewhere; }

// f(y) with the class indices as the type that they have.
template <class F>
__device__ __forceinline__ auto with_index(const Problem& p, F f) {
  switch (p.target_kind) {
    case TargetKind::kInt32:
      return f(static_cast<const int32_t*>(p.target));
    case TargetKind::kInt16:
      return f(static_cast<const int16_t*>(p.target));
    case TargetKind::kInt8:
      return f(static_cast<const int8_t*>(p.target));
    case TargetKind::kUInt8:
      return f(static_cast<const uint8_t*>(p.target));
    default:
      return f(static_cast<const int64_t*>(p.target));
  }
}

// What stands in memory for the class of a row of class indices.
__device__ inline int64_t read_index(const Problem& p, int64_t row) {
  return with_index(p, [&]<class T>(const T* target) { return static_cast<int64_t>(target[row]); });
}
// The class, counted from the first at hand. One out of range trips an assertion, and is never used
// as an index.
__device__ inline int64_t class_of(const Problem& p, int64_t index) {
  if (index == p.ignore_index) return kIgnored;
  const bool in_range = index >= 0 && index < all_classes(p);
  assert(in_range && "fused_ce: Target is out of bounds: it must be in [0, C) or ignore_index");
  if (!in_range) return kOutOfRange;
  const int64_t y = index - p.slice.first;
  return y >= 0 && y < p.classes ? y : int64_t{kElsewhere};
}

// What multiplies a row's loss.
template <class A>
__device__ inline A row_weight_of(const Problem& p, int64_t row) {
  return p.row_weight ? static_cast<const A*>(p.row_weight)[row] : A(1);
}

// The gradient of a row's loss, or z-loss: of `grad`, one of back's.
template <class A>
__device__ inline A read_grad(const Backward& back, const void* grad, int64_t row) {
  if (!grad) return 0;
  const A g = number_at<A>(grad, back.grad_dtype, row * back.grad_stride);
  return back.total_weight ? divided(g, *back.total_weight) : g;
}

// A row's numbers of struct Saved.
template <class A>
struct SavedRow {
  A reference, sum, target_or_mass;

  static __device__ SavedRow of(const Saved& saved, int64_t row) {
    return {static_cast<const A*>(saved.reference)[row], static_cast<const A*>(saved.sum)[row],
            static_cast<const A*>(saved.target_or_mass)[row]};
  }
};

}  // namespace fused_ce::cuda
