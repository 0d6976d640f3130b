// SPDX-License-Identifier: BSD-3-Clause
// A tile of planes: logits whose neighbours in memory are rows ((N,C,d1..) and transposed
// matrices), read in place. The lanes of a vector are rows.
#pragma once

#include "objective.h"
#include "targets.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

// Rows a tile: enough that each plane is read in long runs.
inline constexpr int kPlaneTile = 512;
// Classes taken together: their vectors share the loads of the rows' state, and float lanes never
// add up more of them before they go into double. Few, since planes often lie a power of two apart,
// where the caches hold no more than eight lines.
inline constexpr int kPlanes = 4;

template <class S, Terms kTerms>
class PlaneTile {
 protected:
  using A = Accumulate<S>;
  using V = Vec<A>;
  using I = Vec<Int<A>>;
  static constexpr bool kIndices = Objective<S, kTerms>::kIndices;
  static constexpr int kW = kLanes<A>;

  explicit PlaneTile(const Problem& problem) : p_(problem), objective_(problem) {}

  static int padded(int n) { return (n + kW - 1) / kW * kW; }

  // Reads the targets and finds the logits. Lanes past the end repeat the last row, have no target
  // and are never stored. Returns the first bad row.
  int64_t open(int64_t first, int n) {
    first_ = first;
    n_ = n;
    base_ = row_offset(p_, p_.logits_strides, first);
    if constexpr (!kIndices) return kNoBadRow;
    return read_targets(p_, first, n, padded(n), rows_);
  }

  V logits(int64_t c, int i) const {
    const S* x = logits_at(c) + i;
    return i + kW <= n_ ? objective_.logits(x) : objective_.logits(x, n_ - i, A(0));
  }

  const S* logits_at(int64_t c) const {
    return static_cast<const S*>(p_.logits) + base_ + c * p_.logits_strides.classes;
  }

  // What the logits of class c weigh in the linear sums of rows i, i + 1, ..
  FUSED_CE_INLINE V weights(int64_t c, int i, const A* target) const {
    return objective_.weight_of(c, kHasMass<kTerms> ? load(target + i) : V{});
  }

  // The tile's probabilities of one class, of which whole vectors can be read. A tile's rows have
  // one outer index.
  const A* probabilities(int64_t c, A* buffer) {
    const Strides& s = p_.target_strides;
    const A* p = gather<A>(p_.target, p_.target_dtype, row_offset(p_, s, first_) + c * s.classes,
                           s.inner, n_, buffer);
    if (n_ % kW == 0 || p == buffer) return p;
    __builtin_memcpy(buffer, p, static_cast<size_t>(n_) * sizeof(A));
    return buffer;
  }

  // The planes to be read after those that begin with class `first`: of the next tile at the end.
  const S* logits_after(int64_t first) const {
    return first + kPlanes < p_.classes ? logits_at(first + kPlanes) : logits_at(0) + kPlaneTile;
  }
  // Once a cache line. Runs of a tile's length end before the processor's own prefetching has
  // begun.
  FUSED_CE_INLINE void prefetch(const S* planes, int i) const {
    if (i % (64 / static_cast<int>(sizeof(S))) != 0) return;
#pragma GCC unroll 4
    for (int k = 0; k < kPlanes; ++k)
      __builtin_prefetch(planes + k * p_.logits_strides.classes + i, 0, 2);
  }

  // The same for probabilities, of any type.
  const char* probabilities_after(int64_t first) const {
    const Strides& s = p_.target_strides;
    const int64_t c = first + kPlanes;
    const int64_t offset =
        row_offset(p_, s, first_) + (c < p_.classes ? c * s.classes : kPlaneTile * s.inner);
    return static_cast<const char*>(p_.target) + offset * size_of(p_.target_dtype);
  }
  FUSED_CE_INLINE void prefetch_probabilities(const char* planes, int i) const {
    const int64_t size = size_of(p_.target_dtype);
    if (i * size % 64 != 0) return;
#pragma GCC unroll 4
    for (int k = 0; k < kPlanes; ++k)
      __builtin_prefetch(planes + (k * p_.target_strides.classes + i) * size, 0, 2);
  }

  const Problem& p_;
  const Objective<S, kTerms> objective_;
  int64_t first_ = 0, base_ = 0;
  int n_ = 0;
  RowStates<A, kTerms, kPlaneTile> rows_;
  alignas(64) A targets_[kPlanes][kPlaneTile];
};

}  // namespace fused_ce::cpu::FUSED_CE_ISA
