// SPDX-License-Identifier: BSD-3-Clause
// Squares of logits in registers: rows become lanes.
#pragma once

#include "vec.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

// Interleaves the first halves (kStart = 0) or the second (kStart = kPiece / 2) of the pieces of
// kPiece lanes that a and b are made of.
template <int kStart, int kPiece, class V, size_t... kIndex>
FUSED_CE_INLINE V interleave(V a, V b, IndexSequence<kIndex...>) {
  constexpr int kN = sizeof...(kIndex);
  constexpr auto kFrom = [](int lane) {
    const int at = lane % kPiece;
    return lane - at + kStart + at / 2 + at % 2 * kN;
  };
  return __builtin_shufflevector(a, b, kFrom(static_cast<int>(kIndex))...);
}

// Rows are transposed in squares of so many classes: x86 interleaves within 16 bytes at a fraction
// of the cost of moving lanes any farther, so that is left to the loads.
template <class T>
inline constexpr int kSquare = kLanes<T> < 4 ? kLanes<T> : 4;

// kSquare neighbours of each of the rows that lie `step` apart, as the pieces of one vector.
template <class T, int kBytes = kVectorBytes>
FUSED_CE_INLINE auto load_pieces(const T* p, int64_t step) {
  typedef T V __attribute__((vector_size(kBytes)));
  constexpr int kN = kBytes / static_cast<int>(sizeof(T));
  if constexpr (kN == kSquare<T>) {
    V v;
    __builtin_memcpy(&v, p, sizeof(v));
    return v;
  } else {
    return [&]<size_t... kIndex>(IndexSequence<kIndex...>) __attribute__((always_inline)) {
      return __builtin_shufflevector(
          load_pieces<T, kBytes / 2>(p, step),
          load_pieces<T, kBytes / 2>(p + kN / 2 / kSquare<T> * step, step),
          static_cast<int>(kIndex)...);
    }(typename MakeIndexSequence<kN>::type{});
  }
}

// The vector of the rows' logits for each of kSquare classes; the first row's are at p, and the
// rows lie `stride` apart. log2(n) perfect shuffles, each of which interleaves the first half of
// the vectors with the second (Stone, IEEE Trans. Computers 20, 1971).
template <class T>
FUSED_CE_INLINE void load_transposed(const T* p, int64_t stride, Vec<T> (&v)[kSquare<T>]) {
  constexpr int kN = kSquare<T>;
  using All = typename MakeIndexSequence<kLanes<T>>::type;
#pragma GCC unroll 4
  for (int i = 0; i < kN; ++i) v[i] = load_pieces<T>(p + i * stride, kN * stride);
#pragma GCC unroll 2
  for (int step = 1; step < kN; step *= 2) {
    Vec<T> next[kN];
#pragma GCC unroll 2
    for (int i = 0; i < kN / 2; ++i) {
      next[2 * i] = interleave<0, kN>(v[i], v[i + kN / 2], All{});
      next[2 * i + 1] = interleave<kN / 2, kN>(v[i], v[i + kN / 2], All{});
    }
#pragma GCC unroll 4
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
      folded[i] = combine(interleave<0, kN>(a, b, All{}), interleave<kN / 2, kN>(a, b, All{}));
    }
  }
  return folded[0];
}

}  // namespace fused_ce::cpu::FUSED_CE_ISA
