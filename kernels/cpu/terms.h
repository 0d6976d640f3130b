// The per-element functions: what one logit adds to its row's sums, and what its gradient is.
// They are the same whether the lanes of a vector are classes of one row (rows.h) or rows of one
// class (few.h, planes.h).
#pragma once

#include "group.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

// What a lane adds up before it goes into double: few enough that a float sum keeps its digits,
// even where all of a row's mass lies in one lane. Half types do not notice.
template <class S>
inline constexpr int kLaneTerms = sizeof(S) != sizeof(float) ? 16
                                  : kLanes<float> > 8        ? 4
                                                             : 8;

// kIndices reads exponentials alone; smoothing adds a linear sum; probabilities add their mass.
enum class Terms { kIndices, kSmoothed, kProbabilities };

// V: a vector, or a pair of them.
template <class V>
struct Sums {
  V exponentials{}, linear{}, mass{};

  // q: the weight of the logit x in the linear sum (kSmoothed: w_j, kProbabilities: q_j). `kept`:
  // x, or -inf in the lanes whose exponential stays out of the sum, as the pivot's does.
  template <Terms kTerms, class S, class A = Accumulate<S>>
  FUSED_CE_INLINE void add(const Reference<S>& ref, Vec<A> m, V x, V kept, V q) {
    exponentials += ref.exp(kept);
    if constexpr (kTerms != Terms::kIndices) linear += q * (m - x);
    if constexpr (kTerms == Terms::kProbabilities) mass += q;
  }
};

template <class V>
FUSED_CE_INLINE Sums<V> operator+(const Sums<V>& x, const Sums<V>& y) {
  return {x.exponentials + y.exponentials, x.linear + y.linear, x.mass + y.mass};
}
template <class V>
FUSED_CE_INLINE Sums<V> folded(const Sums<Pair<V>>& s) {
  return {s.exponentials.a + s.exponentials.b, s.linear.a + s.linear.b, s.mass.a + s.mass.b};
}

// The sums of a row, in double.
template <class A>
struct RowSums {
  DoubleSum<A> exponentials, linear, mass;

  template <Terms kTerms>
  FUSED_CE_INLINE void add(const Sums<Vec<A>>& s) {
    exponentials.add(s.exponentials);
    if constexpr (kTerms != Terms::kIndices) linear.add(s.linear);
    if constexpr (kTerms == Terms::kProbabilities) mass.add(s.mass);
  }
};

// factor * e^(x - shift) 2^-c - subtracted
template <Terms kTerms, class S, class V, class A = Accumulate<S>>
FUSED_CE_INLINE V gradient(const Reference<S>& ref, Vec<A> factor, Vec<A> grad, V x, V q) {
  const V softmax = ref.exp(x, factor);
  if constexpr (kTerms == Terms::kIndices) return softmax;
  return softmax - grad * q;
}

template <class A>
class Mixing {  // target probabilities to the weights of the linear sum
 public:
  explicit Mixing(const Smoothing& s)
      : keep_(static_cast<A>(s.keep)), spread_(static_cast<A>(s.spread)) {}

  // q = w (keep t + spread)
  FUSED_CE_INLINE Vec<A> operator()(Vec<A> weight, Vec<A> target) const {
    return weight * (target * keep_ + spread_);
  }

 private:
  A keep_, spread_;
};

}  // namespace fused_ce::cpu::FUSED_CE_ISA
