// Squares of vectors in registers.
#pragma once

#include "vec.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

template <int kStart, class V, size_t... kIndex>
FUSED_CE_INLINE V interleave(V a, V b, IndexSequence<kIndex...>) {
  constexpr int kN = sizeof...(kIndex);
  return __builtin_shufflevector(
      a, b, (kStart + static_cast<int>(kIndex) / 2 + static_cast<int>(kIndex) % 2 * kN)...);
}

// Row r of the result holds lane r of every vector: log2(n) perfect shuffles, each of which
// interleaves the first half of the vectors with the second (Stone, IEEE Trans. Computers 20,
// 1971).
template <class T>
FUSED_CE_INLINE void transpose(Vec<T> (&v)[kLanes<T>]) {
  constexpr int kN = kLanes<T>;
  using All = typename MakeIndexSequence<kN>::type;
#pragma GCC unroll 4
  for (int step = 1; step < kN; step *= 2) {
    Vec<T> next[kN];
#pragma GCC unroll 16
    for (int i = 0; i < kN / 2; ++i) {
      next[2 * i] = interleave<0>(v[i], v[i + kN / 2], All{});
      next[2 * i + 1] = interleave<kN / 2>(v[i], v[i + kN / 2], All{});
    }
#pragma GCC unroll 16
    for (int i = 0; i < kN; ++i) v[i] = next[i];
  }
}

// Lane r of the result combines all lanes of v[r]: a transposition that folds on the way, at a
// quarter of the cost of folding vector after vector, and with nothing that waits for one row's
// result.
template <class T, class F>
FUSED_CE_INLINE Vec<T> fold_each(const Vec<T>* v, F combine) {
  constexpr int kN = kLanes<T>;
  using All = typename MakeIndexSequence<kN>::type;
  Vec<T> folded[kN];
#pragma GCC unroll 16
  for (int i = 0; i < kN; ++i) folded[i] = v[i];
#pragma GCC unroll 4
  for (int half = kN / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) {
      const Vec<T> a = folded[i], b = folded[i + half];
      folded[i] = combine(interleave<0>(a, b, All{}), interleave<kN / 2>(a, b, All{}));
    }
  }
  return folded[0];
}

}  // namespace fused_ce::cpu::FUSED_CE_ISA
