// SPDX-License-Identifier: BSD-3-Clause
// What classes add up to: the plain sums of a few, and a row's. They are the same whether the lanes
// of a vector are classes of one row (rows.h) or rows of one class (few.h, planes.h).
#pragma once

#include "convert.h"
#include "double_sum.h"
#include "pair.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

// kIndices adds up exponentials alone; smoothing adds a linear sum; probabilities add their mass.
// The ranked ones add what statistics need; those of indices know of smoothing at run time, which
// keeps the library small.
enum class Terms { kIndices, kSmoothed, kProbabilities, kIndicesRanked, kProbabilitiesRanked };
template <Terms kTerms>
inline constexpr bool kHasLinear = kTerms != Terms::kIndices;
template <Terms kTerms>
inline constexpr bool kHasMass =
    kTerms == Terms::kProbabilities || kTerms == Terms::kProbabilitiesRanked;
template <Terms kTerms>
inline constexpr bool kIsSmoothed = kHasLinear<kTerms> && !kHasMass<kTerms>;
// Forward: the largest logit is found, stays out of the sums, and there is a sum of how far the
// others lie below. Backward: the entropy has a gradient.
template <Terms kTerms>
inline constexpr bool kIsRanked = kTerms >= Terms::kIndicesRanked;
// Beside probabilities, the largest logit is the pivot, and known before. Else it is found on the
// way.
template <Terms kTerms>
inline constexpr bool kFindsLargest = kIsRanked<kTerms> && !kHasMass<kTerms>;
// Where there may be a linear sum or not, it is a loop of its own: to ask for every class would
// cost what a ranked loop has least of, registers.
template <Terms kTerms>
inline constexpr bool kAddsLinear = kHasLinear<kTerms> && !kFindsLargest<kTerms>;

// What a lane adds up before it goes into double: few enough that a float sum keeps its digits,
// even where all of a row's mass lies in one lane. Half types do not notice.
template <class S>
inline constexpr int kLaneTerms = sizeof(S) != sizeof(float) ? 16
                                  : kLanes<float> == 8       ? 8
                                                             : 4;

// V: a vector, or a pair of them.
template <class V, Terms kTerms>
struct Sums {
  V exponentials{}, linear{}, mass{};
  V gap{};  // of exponentials times how far their logits z lie below the reference
};

template <class V, Terms kTerms>
FUSED_CE_INLINE Sums<V, kTerms> operator+(const Sums<V, kTerms>& x, const Sums<V, kTerms>& y) {
  return {x.exponentials + y.exponentials, x.linear + y.linear, x.mass + y.mass, x.gap + y.gap};
}
template <class V, Terms kTerms>
FUSED_CE_INLINE Sums<V, kTerms> folded(const Sums<Pair<V>, kTerms>& s) {
  return {s.exponentials.a + s.exponentials.b, s.linear.a + s.linear.b, s.mass.a + s.mass.b,
          s.gap.a + s.gap.b};
}

// In double: `Sum` is RowSum, of one row, or LaneSum, of a row a lane.
template <class A, Terms kTerms, template <class> class Sum>
struct SumsInDouble {
  Sum<A> exponentials, linear, mass, gap;

  FUSED_CE_INLINE void add(const Sums<Vec<A>, kTerms>& s) {
    add_exponentials(s);
    if constexpr (kAddsLinear<kTerms>) add_linear(s);
  }
  FUSED_CE_INLINE void add_exponentials(const Sums<Vec<A>, kTerms>& s) {
    exponentials.add(s.exponentials);
    if constexpr (kIsRanked<kTerms>) gap.add(s.gap);
  }
  FUSED_CE_INLINE void add_linear(const Sums<Vec<A>, kTerms>& s) {
    if constexpr (kHasLinear<kTerms>) linear.add(s.linear);
    if constexpr (kHasMass<kTerms>) mass.add(s.mass);
  }
};
template <class A, Terms kTerms>
using RowSums = SumsInDouble<A, kTerms, RowSum>;
template <class A, Terms kTerms>
using LaneSums = SumsInDouble<A, kTerms, LaneSum>;

}  // namespace fused_ce::cpu::FUSED_CE_ISA
