// SPDX-License-Identifier: BSD-3-Clause
// What is computed of a row, the one thing that every loop holds: what a logit is, what a class
// adds to the row's sums, how the row ends, and what a class gets back. Loops know where logits lie
// and in which order to take them, and nothing else. The mirror of cuda/objective.cuh.
#pragma once

#include "factors.h"
#include "slice.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

template <class S, Terms kTerms>
class Objective {
  using A = Accumulate<S>;
  using V = Vec<A>;

 public:
  // Whether rows have a class for a target, or probabilities.
  static constexpr bool kIndices = !kHasMass<kTerms>;

  explicit Objective(const Problem& p)
      : formula_(p),
        keep_(static_cast<A>(formula_.keep)),
        spread_(static_cast<A>(formula_.spread)),
        weight_(static_cast<const A*>(p.weight)) {}

  // ---- A logit: what becomes of the numbers in memory before anything is computed with them.
  // (Their scale is the reference's affair: numbers keep their order.)

  FUSED_CE_INLINE A logit(const S* x) const { return get(x); }
  FUSED_CE_INLINE V logits(const S* x) const { return load(x); }
  // The first n lanes' logits, and `rest` in the others.
  FUSED_CE_INLINE V logits(const S* x, int n, A rest) const { return load_partial(x, n, rest); }
  // As load_transposed, of numbers that are converted already.
  FUSED_CE_INLINE void transposed_logits(const A* x, int64_t stride,
                                         V (&square)[kSquare<A>]) const {
    load_transposed(x, stride, square);
  }

  // ---- What a logit weighs in the linear sum: of smoothed class indices w_j, of probabilities
  // q_j.

  // Whether there is such a sum.
  FUSED_CE_INLINE bool has_linear() const {
    if constexpr (kTerms == Terms::kIndicesRanked) return formula_.spread > 0;
    return kHasLinear<kTerms>;
  }
  FUSED_CE_INLINE A class_weight(int64_t c) const { return weight_ ? weight_[c] : A(1); }
  // q of classes of these weights and target probabilities.
  FUSED_CE_INLINE V weight(V of_class, V target) const {
    if constexpr (!kHasLinear<kTerms>) return V{};
    if constexpr (!kHasMass<kTerms>) return of_class;
    return of_class * (target * keep_ + spread_);
  }
  // q of one class, a row a lane.
  FUSED_CE_INLINE V weight_of(int64_t c, V target) const {
    return has_linear() ? weight(splat(class_weight(c)), target) : V{};
  }
  // q of the classes from c on of one row, whose target probabilities are at t.
  FUSED_CE_INLINE V weights(int64_t c, const A* t) const {
    if (!has_linear()) return V{};
    return weight(weight_ ? load(weight_ + c) : splat(A(1)), kHasMass<kTerms> ? load(t) : V{});
  }
  // The same of n classes, fewer than a vector has lanes, and 0 in the lanes after them.
  FUSED_CE_INLINE V weights(int64_t c, const A* t, int n) const {
    if (!has_linear()) return V{};
    const V of_class = weight_ ? load_partial(weight_ + c, n, A(0))
                               : (iota<Int<A>>() < static_cast<Int<A>>(n) ? splat(A(1)) : V{});
    return weight(of_class, kHasMass<kTerms> ? load_partial(t, n, A(0)) : V{});
  }

  // ---- What exponentials are relative to: m, of a row a lane; or what that came down to.

  FUSED_CE_INLINE Offset<A> offset(V m) const {
    return Offset<A>::template of<S>(m * formula_.scale);
  }
  FUSED_CE_INLINE Reference<S> reference(const Offset<A>& offset) const {
    return Reference<S>(offset, formula_.scale);
  }
  FUSED_CE_INLINE Reference<S> reference(V m) const { return reference(offset(m)); }
  FUSED_CE_INLINE Reference<S> reference(A shift, A c, bool shifted) const {
    return Reference<S>(splat(shift), splat(c), shifted, formula_.scale);
  }

  // The reference where -inf may be a row's largest logit: one below which -inf is -inf.
  static FUSED_CE_INLINE V above_infinity(V m) {
    return at_least<A>(m, splat(-ExpConstants<A>::kLargest));
  }

  // ---- What a class adds. X: a vector, or a pair of them.

  // What enters the sums for logits x: the largest yet stays out until a larger one comes, so a
  // row's largest is never in them, and no exponential is computed twice. NaN enters.
  static FUSED_CE_INLINE V entering(V x, V& largest) {
    const V smaller = at_most<A>(x, largest);
    largest = at_least<A>(largest, x);
    return smaller;
  }
  // What the terms of a row, or of a row a lane, are relative to.
  struct Origin {
    const Reference<S>& reference;
    V m;             // the number that the reference was made of
    V top;           // its logit, less the shift
    bool wants_gap;  // whether it is asked how far logits lie below it
  };
  static FUSED_CE_INLINE Origin origin(const Reference<S>& reference, V m, bool wants_gap) {
    return {reference, m, kIsRanked<kTerms> ? reference.from_shift(m) : V{}, wants_gap};
  }

  // The exponential; the pivot's stays out of the sum, so x is -inf there.
  template <class X>
  static FUSED_CE_INLINE void add_exponential(Sums<X, kTerms>& sums, const Origin& from, X x) {
    if constexpr (kIsRanked<kTerms>) {
      from.reference.add_exp_and_gap(x, from.top, from.wants_gap, sums.exponentials, sums.gap);
    } else {
      sums.exponentials += from.reference.exp(x);
    }
  }
  template <class X>
  static FUSED_CE_INLINE Sums<X, kTerms> exponential(const Origin& from, X x) {
    Sums<X, kTerms> sums;
    if constexpr (kIsRanked<kTerms>) {
      add_exponential(sums, from, x);
    } else {  // with nothing to be added to
      sums.exponentials = from.reference.exp(x);
    }
    return sums;
  }
  // What it weighs. m: the reference.
  template <class X>
  FUSED_CE_INLINE void add_linear(Sums<X, kTerms>& sums, V m, X x, X q) const {
    if constexpr (kHasLinear<kTerms>) sums.linear += q * (m - x);
    if constexpr (kHasMass<kTerms>) sums.mass += q;
  }
  // Both at once. `kept`: x, or -inf at the pivot.
  template <class X>
  FUSED_CE_INLINE void add_term(Sums<X, kTerms>& sums, const Origin& from, X x, X kept, X q) const {
    add_exponential(sums, from, kept);
    if constexpr (kAddsLinear<kTerms>) add_linear(sums, from.m, x, q);
  }
  // The same of the logits x, of which the masks `pivot` say which is the pivot.
  template <class X, class M>
  FUSED_CE_INLINE void add_term_except(Sums<X, kTerms>& sums, const Origin& from, X x, M pivot,
                                       X q) const {
    if constexpr (kIsRanked<kTerms>) {
      const auto none = [](V v, auto lanes) {
        return lanes ? splat(-static_cast<A>(__builtin_inf())) : v;
      };
      add_exponential(sums, from, each(none, x, pivot));
    } else {
      sums.exponentials += from.reference.exp_except(x, pivot);
    }
    if constexpr (kAddsLinear<kTerms>) add_linear(sums, from.m, x, q);
  }

  // ---- How rows end.

  template <int kRows>
  void finish(RowStates<A, kTerms, kRows>& rows, int n, bool wants_lse, bool saves,
              Finished<kRows>& out) const {
    if constexpr (kIsRanked<kTerms>) {
      statistics_of<S>(rows, n, formula_, saves, out);
    } else {
      losses_of<S>(rows, n, formula_, out.loss, wants_lse ? &out.lse[0] : nullptr);
    }
  }
  // Whether the references of rows [begin, end), guesses, were near enough to the largest logits
  // for what is relative to them.
  template <int kRows>
  bool are_near(const RowStates<A, kTerms, kRows>& rows, int begin, int end, bool wants_gap) const {
    return are_near_enough<S>(rows, begin, end, formula_, wants_gap);
  }
  // What a slice's rows come to, in the place of an end. finish comes before.
  template <int kRows>
  void put_slice(const RowStates<A, kTerms, kRows>& rows, const Problem& p, int64_t first, int n,
                 const Finished<kRows>& finished, const SliceSums& out) const {
    cpu::FUSED_CE_ISA::put_slice<S>(p, formula_, rows, first, n, finished, out);
  }
  template <int kRows>
  void factors(RowStates<A, kTerms, kRows>& rows, int n, const Incoming<kRows>& incoming,
               Factors<S, kTerms, kRows>& out) const {
    factors_of<S>(rows, n, formula_, incoming, out);
  }

  // ---- What a class gets back. X: a vector, or a pair of them.

  template <class X>
  static FUSED_CE_INLINE X gradient(const Factor<S, kIsRanked<kTerms>>& row, X x, X q) {
    const X softmax = row.reference.exp(x, row.of_softmax(x));
    if constexpr (!kHasLinear<kTerms>) return softmax;
    return softmax - row.grad * q;
  }
  // The same of probabilities, of rows whose pivots may lead.
  static FUSED_CE_INLINE V gradient(const Factor<S, kIsRanked<kTerms>>& row,
                                    const PivotFactor<A>& pivot, V x, V q) {
    const auto is_pivot = x == pivot.logit;
    V v = is_pivot ? pivot.gradient(q) : gradient(row, x, q);
    if (pivot.has_more) v += is_pivot ? pivot.more : V{};
    return v;
  }

 private:
  const Formula<A> formula_;
  const A keep_, spread_;
  const A* const weight_;
};

}  // namespace fused_ce::cpu::FUSED_CE_ISA
