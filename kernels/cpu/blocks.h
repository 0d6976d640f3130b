// SPDX-License-Identifier: BSD-3-Clause
// A row of many classes, read block by block: the lanes of a vector are neighbouring classes. Rows
// whose classes are not neighbours in memory are gathered into a buffer in the cache.
#pragma once

#include "objective.h"
#include "targets.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

// Vectors summed side by side, to hide the latency of an addition.
inline constexpr int kUnroll = 4;
// How far ahead logits are fetched. The processor's own prefetching stops at every page and row,
// and its window of instructions is too short to see the next cache line behind an exponential.
inline constexpr int kPrefetchBytes = 8192;
// The cache they are fetched into. Long rows leave the first one to the processor's own
// prefetching, which the ends of short rows throw off.
inline constexpr int kFirstCache = 1, kSecondCache = 2;
// Rows finished together: their numbers stay in the first cache.
inline constexpr int kRowTile = 256;

template <class S, Terms kTerms>
class Blocks {
 protected:
  using A = Accumulate<S>;
  using V = Vec<A>;
  static constexpr int kW = kLanes<A>;
  static constexpr int kBlock = 16 * kUnroll * kW;  // classes, which the first cache holds
  static constexpr A kNone = -static_cast<A>(__builtin_inf());  // its exponential is 0

  explicit Blocks(const Problem& problem) : p_(problem), objective_(problem) {}

  const S* row(int64_t r) const {
    return static_cast<const S*>(p_.logits) + row_offset(p_, p_.logits_strides, r);
  }

  // The n logits of a row from class b on, as neighbours.
  const S* block(const S* row, int64_t b, int n) {
    const int64_t stride = p_.logits_strides.classes;
    if (stride == 1) return row + b;
    for (int k = 0; k < n; ++k) gathered_[k] = row[(b + k) * stride];
    return gathered_;
  }

  // Their target probabilities, if the row has any.
  const A* probabilities(int64_t row, int64_t b, int n) {
    if constexpr (!kHasMass<kTerms>) return nullptr;
    const Strides& s = p_.target_strides;
    return gather<A>(p_.target, p_.target_dtype, row_offset(p_, s, row) + b * s.classes, s.classes,
                     n, target_);
  }

  static int block_size(int64_t left) { return static_cast<int>(left < kBlock ? left : kBlock); }

  A largest(const S* row, int64_t n) { return max_lane<A>(largest_lanes(row, n)); }

  V largest_lanes(const S* row, int64_t n) {
    V m = splat(kNone);
    for (int64_t b = 0; b < n; b += kBlock) {
      const int size = block_size(n - b);
      const S* x = block(row, b, size);
      int j = 0;
      for (; j + kW <= size; j += kW) m = larger(m, objective_.logits(x + j));
      if (j < size) m = larger(m, objective_.logits(x + j, size - j, kNone));
    }
    return m;
  }

  // The first class that has this logit; 0 where none has.
  int first_of(const S* row, A logit) {
    for (int64_t b = 0; b < p_.classes; b += kBlock) {
      const int n = block_size(p_.classes - b);
      const S* x = block(row, b, n);
      for (int j = 0; j < n; j += kW) {
        const V v = j + kW <= n ? objective_.logits(x + j)
                                : objective_.logits(x + j, n - j, A(__builtin_nanf("")));
        if (all_lanes(v != logit)) continue;
        int lane = 0;
        while (v[lane] != logit) ++lane;
        return static_cast<int>(b) + j + lane;
      }
    }
    return 0;
  }

  const Problem& p_;
  const Objective<S, kTerms> objective_;

 private:
  alignas(64) S gathered_[kBlock];
  alignas(64) A target_[kBlock];
};

// Once a cache line: `j` counts from where x points. kCache: 1 or 2.
template <int kCache, class S>
FUSED_CE_INLINE void prefetch(const S* x, int j) {
  constexpr int kLine = 64 / static_cast<int>(sizeof(S));
  if (kLine <= kLanes<Accumulate<S>> || j % kLine == 0)
    __builtin_prefetch(reinterpret_cast<const char*>(x + j) + kPrefetchBytes, 0, 4 - kCache);
}

}  // namespace fused_ce::cpu::FUSED_CE_ISA
