// SPDX-License-Identifier: BSD-3-Clause
// Two vectors whose instructions alternate. An exponential is a chain of a dozen instructions that
// wait for one another, and the processor's schedulers are full of waiting instructions after a few
// such chains. In two chains that go in step, each instruction waits half as long.
#pragma once

#include "vec.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

template <class V>
struct Pair {
  V a{}, b{};
};

template <class X>
inline constexpr bool kIsPair = false;
template <class V>
inline constexpr bool kIsPair<Pair<V>> = true;

// The first or the second vector of a pair; what is no pair serves both.
template <bool kSecond, class X>
FUSED_CE_INLINE auto part_of(X x) {
  if constexpr (!kIsPair<X>)
    return x;
  else if constexpr (kSecond)
    return x.b;
  else
    return x.a;
}

// f of vectors; or, where one is a pair, of the first vectors and of the second.
template <class F, class... X>
FUSED_CE_INLINE auto each(F f, X... x) {
  if constexpr ((kIsPair<X> || ...)) {
    return Pair<decltype(f(part_of<false>(x)...))>{f(part_of<false>(x)...), f(part_of<true>(x)...)};
  } else {
    return f(x...);
  }
}

#define FUSED_CE_PAIRWISE(OP)                                 \
  template <class V>                                          \
  FUSED_CE_INLINE Pair<V> operator OP(Pair<V> x, Pair<V> y) { \
    return {x.a OP y.a, x.b OP y.b};                          \
  }                                                           \
  template <class V, class Y>                                 \
  FUSED_CE_INLINE Pair<V> operator OP(Pair<V> x, Y y) {       \
    return {x.a OP y, x.b OP y};                              \
  }                                                           \
  template <class X, class V>                                 \
  FUSED_CE_INLINE Pair<V> operator OP(X x, Pair<V> y) {       \
    return {x OP y.a, x OP y.b};                              \
  }
FUSED_CE_PAIRWISE(+)
FUSED_CE_PAIRWISE(-)
FUSED_CE_PAIRWISE(*)
#undef FUSED_CE_PAIRWISE

template <class V>
FUSED_CE_INLINE Pair<V>& operator+=(Pair<V>& x, Pair<V> y) {
  return x = x + y;
}

}  // namespace fused_ce::cpu::FUSED_CE_ISA
