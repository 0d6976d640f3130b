// SPDX-License-Identifier: BSD-3-Clause
// From a row's saved numbers to the factors of its gradient: the way back from finish.h, which has
// the formulas.
#pragma once

#include "finish.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

// What the gradient of one row's classes is made of, in all lanes; or of a row a lane.
template <class S, bool kSloped>
struct Factor {
  using V = Vec<Accumulate<S>>;
  Reference<S> reference;
  V factor, grad;

  // What the softmax of logits x is multiplied by.
  template <class X>
  FUSED_CE_INLINE V of_softmax(X) const {
    return factor;
  }
  // Lane i of the result is of lane row[i].
  FUSED_CE_INLINE Factor permuted(Vec<Int<Accumulate<S>>> row) const {
    return {reference.permuted(row), permute(factor, row), permute(grad, row)};
  }
};
// The same where the entropy has a gradient: the factor grows with the distance from the largest
// logit.
template <class S>
struct Factor<S, true> {
  using A = Accumulate<S>;
  using V = Vec<A>;
  Reference<S> reference;
  V factor, grad, slope, largest;

  template <class X>
  FUSED_CE_INLINE X of_softmax(X x) const {
    constexpr A kFar = A(0x1p60);  // where there is no softmax left, even of -inf
    const X below = each([](V v) { return at_most<A>(v, splat(kFar)); }, largest - x);
    return below * slope + factor;
  }
  FUSED_CE_INLINE Factor permuted(Vec<Int<A>> row) const {
    return {reference.permuted(row), permute(factor, row), permute(grad, row), permute(slope, row),
            permute(largest, row)};
  }
};

// What it is made of at the pivots of probabilities that lead (see Factors).
template <class A>
struct PivotFactor {
  Vec<A> logit, mass, grad, others;
  Vec<A> more;  // p times what p is multiplied by beside g mass
  bool has_more;

  FUSED_CE_INLINE PivotFactor permuted(Vec<Int<A>> row) const {
    return {permute(logit, row),
            permute(mass, row),
            permute(grad, row),
            permute(others, row),
            has_more ? permute(more, row) : Vec<A>{},
            has_more};
  }
  // g ((mass - q) p - q (1 - p))
  FUSED_CE_INLINE Vec<A> gradient(Vec<A> q) const {
    return (mass - q) * (grad - others) - q * others;
  }
};

// The gradient of a row's loss times g is g (mass p_j - q_j), where for indices
//   mass = (1 - s) w_y + s / C sum(w),  q_j = (1 - s) w_y [j = y] + s / C w_j.
// That is a difference of two numbers that are nearly the same where q_j has most of the mass and
// p_j is near 1. So it is found from the others' share 1 - p there: at the target, and beside
// probabilities at a pivot that leads, which is to say has more than all the others together.
template <class S, Terms kTerms, int kRows>
struct Factors {
  using A = Accumulate<S>;
  PerRow<A, kRows> shift, c;  // g * mass * p_j = factor * e^(x_j - shift) 2^-c
  bool shifted;               // whether any shift differs from 0
  PerRow<A, kRows> factor;    // in [1/2, 1), its exponent is in c: no step under- or
                              // overflows, but in the last octave before infinity (see exp_scaled)
  PerRow<A, kRows> grad;      // probabilities: g. indices: g * s / C
  // Indices: the gradient at the target. Probabilities: where a loop keeps that of a leading pivot.
  PerRow<A, kRows> at_pivot;
  // Probabilities: the logit of a pivot that leads, or else NaN; g (1 - p); whether any leads.
  PerRow<A, kRows> leader, mass, others, more;
  bool some_lead, has_more;
  A scale;

  // Of the entropy's gradient.
  static constexpr bool kSloped = kIsRanked<kTerms>;
  PerRow<A, kSloped ? kRows : 0> slope, largest;

  // Row i's in all lanes.
  FUSED_CE_INLINE Factor<S, kSloped> of_row(int i) const {
    const Reference<S> ref(splat(shift[i]), splat(c[i]), shifted, scale);
    if constexpr (kSloped) {
      return {ref, splat(factor[i]), splat(grad[i]), splat(slope[i]), splat(largest[i])};
    } else {
      return {ref, splat(factor[i]), splat(grad[i])};
    }
  }
  FUSED_CE_INLINE PivotFactor<A> pivot_of_row(int i) const {
    return {splat(leader[i]),
            splat(mass[i]),
            splat(grad[i]),
            splat(others[i]),
            has_more ? splat(more[i]) : Vec<A>{},
            has_more};
  }

  // Those of rows [i, i + kLanes<A>).
  FUSED_CE_INLINE Factor<S, kSloped> of_lanes(int i) const {
    const Reference<S> ref(load(shift + i), load(c + i), shifted, scale);
    if constexpr (kSloped) {
      return {ref, load(factor + i), load(grad + i), load(slope + i), load(largest + i)};
    } else {
      return {ref, load(factor + i), load(grad + i)};
    }
  }
  FUSED_CE_INLINE PivotFactor<A> pivot_of_lanes(int i) const {
    return {load(leader + i),
            load(mass + i),
            load(grad + i),
            load(others + i),
            has_more ? load(more + i) : Vec<A>{},
            has_more};
  }
};

// v = mantissa * 2^exponent with a mantissa in [1/2, 1). 0, subnormal, infinite and NaN numbers
// stay whole.
struct Split {
  Vec<double> mantissa, exponent;
  Vec<int64_t> whole;

  explicit FUSED_CE_INLINE Split(Vec<double> v) {
    using K = ExpConstants<double>;
    const Vec<int64_t> bits = bits_as<Vec<int64_t>>(v);
    const Vec<int64_t> field = (bits >> 52) & 0x7ff;
    whole = field == 0 || field == 0x7ff;
    const Vec<int64_t> cut = (bits & ~(int64_t{0x7ff} << 52)) | (int64_t{1022} << 52);
    const Vec<double> power =
        bits_as<Vec<double>>((field - 1022) + bits_as<int64_t>(K::kRound)) - K::kRound;
    mantissa = whole ? v : bits_as<Vec<double>>(cut);
    exponent = whole ? Vec<double>{} : power;
  }

  // Of a product that would be too small or too large on the way.
  static Split product(Vec<double> a, Vec<double> b, Vec<double> c) {
    const Split x(a), y(b), z(c);
    Split result(x.mantissa * y.mantissa * z.mantissa);
    result.exponent += x.exponent + y.exponent + z.exponent;
    return result;
  }
};

template <class S, Terms kTerms, int kRows, class A = Accumulate<S>>
inline void factors_of(RowStates<A, kTerms, kRows>& rows, int n, const Formula<A>& formula,
                       const Incoming<kRows>& incoming, Factors<S, kTerms, kRows>& out) {
  constexpr bool kIndices = !kHasMass<kTerms>;
  out.shifted = out.some_lead = false;
  out.scale = formula.scale;
  const double scale = static_cast<double>(formula.scale);
  const auto find_exp = [&](int i, const Offset<double>& ref) __attribute__((always_inline)) {
    store(rows.pivot_exp + i,
          exp_of<S>(above_shift<A>(rows.pivot_logit, i, formula.scale, ref), ref));
  };
  const auto find_factors = [&](int i, const Offset<double>& ref) __attribute__((always_inline)) {
    const Vec<double> pivot_exp = lanes(rows.pivot_exp, i);
    const Vec<double> others = lanes(rows.sum, i), total = others + pivot_exp;
    const Vec<double> g = load(incoming.loss + i);
    const Vec<double> w = kIndices ? lanes(rows.target_weight, i) : Vec<double>{};
    const Vec<double> mass =
        kIndices ? formula.keep * w + formula.spread * formula.weight_sum : lanes(rows.mass, i);
    const Vec<double> share = 1.0 / total;
    // What p_j is multiplied by beside g mass.
    Vec<double> more{};
    if (incoming.more) {
      more = load(incoming.lse + i) + load(incoming.z_loss + i) * log_sum<S>(ref, total);
      store(rows.pivot_exp + i, more * (pivot_exp * share));
    }
    if constexpr (kIsRanked<kTerms>) {
      const Vec<double> of_entropy = load(incoming.entropy + i), gap = lanes(rows.gap, i);
      // Of -inf as well the product with its exponential, which is 0, is 0.
      const Vec<double> behind = at_most<double>(
          (lanes(rows.reference, i) - lanes(rows.pivot_logit, i)) * scale, splat(1e6));
      store(rows.pivot_exp + i, (more + of_entropy * (behind - gap)) * (pivot_exp * share));
      more -= of_entropy * gap;
    }
    Split product(incoming.more ? (g * mass + more) * share : g * mass * share);
    if constexpr (!kShort<S>) {  // what was a number of float has exponents to spare in double
      if (!incoming.more && !all_lanes(~product.whole)) product = Split::product(g, mass, share);
    }
    if constexpr (kIsRanked<kTerms>) {  // the exponent is the larger one's
      const Vec<double> constant = g * mass + more, slope = load(incoming.entropy + i) * scale;
      const Vec<double> most =
          magnitude<double>(slope) > magnitude<double>(constant) ? slope : constant;
      product = Split(most * share);
      const Vec<double> unit = most == 0.0 ? Vec<double>{} : product.mantissa / most;
      product.mantissa = constant * unit;
      store_narrow(out.slope + i, slope * unit);
    }

    Vec<double> at_pivot{}, spread_grad = g;
    if constexpr (kIndices) {
      spread_grad = g * formula.spread;
      // p_y - 1 is minus the other classes' share: no cancellation.
      at_pivot = -g * formula.keep * w * (others * share);
      if constexpr (kIsSmoothed<kTerms>) {
        at_pivot += spread_grad * (formula.weight_sum * (pivot_exp * share) - w);
      }
    }
    out.shifted |= !all_lanes(ref.shift == 0.0);
    store_narrow(out.shift + i, ref.shift);
    store_narrow(out.c + i, ref.c - product.exponent);
    store_narrow(out.factor + i, product.mantissa);
    if constexpr (kHasLinear<kTerms>) store_narrow(out.grad + i, spread_grad);
    if constexpr (kIndices) {
      store_narrow(out.at_pivot + i, at_pivot);
    } else {
      const auto leads = others < pivot_exp;
      out.some_lead |= !all_lanes(~leads);
      store_narrow(out.leader + i, leads ? lanes(rows.pivot_logit, i) : splat(__builtin_nan("")));
      store_narrow(out.mass + i, mass);
      store_narrow(out.others + i, g * (others * share));
    }
  };
  for_each_offset<S>(rows, n, formula.scale, find_exp);
  for_each_offset<S>(rows, n, formula.scale, find_factors);
  out.has_more = incoming.more || kIsRanked<kTerms>;
  if (!out.has_more) return;
  // In a loop of its own: the compiler would round the products above otherwise.
  for (int i = 0; i < n; ++i) {
    const A more = static_cast<A>(rows.pivot_exp[i]);
    if constexpr (kIndices) {
      out.at_pivot[i] += more;
    } else {
      out.more[i] = more;
    }
    if constexpr (kIsRanked<kTerms>) out.largest[i] = rows.reference[i];
  }
}

}  // namespace fused_ce::cpu::FUSED_CE_ISA
