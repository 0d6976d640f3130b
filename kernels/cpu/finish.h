// The finish of rows: from a row's state to its loss, and from its saved numbers to the factors of
// its gradient. Rows are finished many at a time, in double, one row a lane: one logarithm a row
// would otherwise cost more than the exponentials of a short row.
//
// With p = softmax(x), weights w, smoothing s over C classes, target y (Szegedy et al.,
// arXiv:1512.00567):
//   indices:        loss = (1 - s) w_y (lse - x_y) + s / C sum_j w_j (lse - x_j),
//   probabilities:  loss = sum_j q_j (lse - x_j),  q_j = w_j ((1 - s) t_j + s / C)
// where lse - x_k = log(1 + sum_{j != k} e^(x_j - x_k)) of one class k, the pivot: the target, or
// beside probabilities the largest logit's. Its own exponential stays out of the row's sum, so that
// the loss of a confident row cancels nowhere.
#pragma once

#include "reference.h"
#include "state.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

// Rows of float and half types are finished in double as well, but with the short forms of exp and
// log1p: results are rounded to float. (A log cancels against the reference: there is no short
// one.)
template <class S>
inline constexpr bool kShort = sizeof(S) < sizeof(double);

// The references of rows [i, i + kLanes<double>).
template <class S, class States>
inline Offset<double> offset_of(const States& rows, int i) {
  return Offset<double>::of<S>(lanes(rows.reference, i));
}

// Calls f(i, offset) for the vectors of rows [0, n), whose references come down to the offset:
// found in lanes of the accumulate type, which are twice as many.
template <class S, class States, class F>
FUSED_CE_INLINE void for_each_offset(const States& rows, int n, F f) {
  using A = Accumulate<S>;
  for (int i = 0; i < n; i += kLanes<A>) {
    const Offset<A> offset = Offset<A>::template of<S>(load(rows.reference + i));
    if constexpr (sizeof(A) == sizeof(double)) {
      f(i, offset);
    } else {
      const Widened shift = widen(offset.shift), c = widen(offset.c);
      f(i, Offset<double>{shift.low, c.low});
      f(i + kLanes<double>, Offset<double>{shift.high, c.high});
    }
  }
}

// e^x relative to a reference
template <class S>
inline Vec<double> exp_of(Vec<double> x, const Offset<double>& ref) {
  return exp_scaled<double, kShort<S>>(x - ref.shift, Power<double>::of(ref.c));
}

// 1 / exp_of(x, ref), infinite where that is nothing
template <class S>
inline Vec<double> inverse_exp_of(Vec<double> x, const Offset<double>& ref) {
  const Vec<double> d = at_most<double>(ref.shift - x, splat(-ExpConstants<double>::kLow));
  return exp_scaled<double, kShort<S>>(d, Power<double>::of(-ref.c));
}

struct Smoothing {
  double keep, spread;  // 1 - s and s / C
  double weight_sum;
  bool no_class;
  explicit Smoothing(const Problem& p)
      : keep(1 - p.label_smoothing),
        spread(p.label_smoothing > 0 ? p.label_smoothing / static_cast<double>(p.classes) : 0),
        weight_sum(p.weight_sum ? *p.weight_sum : static_cast<double>(p.classes)),
        no_class(p.classes == 0) {}
};

// The finish is cut into loops with short chains of dependent instructions, of which the processor
// runs several at a time; in one loop each vector would wait for the one before.

// loss[0, n): rows that do not count give 0. Arrays are read up to the next multiple of a vector.
template <class S, Terms kTerms, int kRows>
inline void losses_of(RowStates<Accumulate<S>, kTerms, kRows>& rows, int n,
                      const Smoothing& smoothing, double* loss) {
  using K = ExpConstants<double>;
  if (smoothing.no_class) {  // an empty sum, of which torch spreads s / 0 over class indices
    for (int i = 0; i < n; ++i) loss[i] = kTerms == Terms::kSmoothed ? __builtin_nan("") : 0;
    return;
  }
  // lse - m, where the sum of all exponentials is `total`. The reference cancels against m first,
  // while the products are still exact.
  const auto above = [&](int i, Vec<double> total) __attribute__((always_inline)) {
    const Offset<double> ref = offset_of<S>(rows, i);
    return ((ref.shift - lanes(rows.reference, i)) + ref.c * K::kLn2High) +
           (ref.c * K::kLn2Low + log(total));
  };
  const auto find_inverse = [&](int i, const Offset<double>& ref) __attribute__((always_inline)) {
    store(rows.pivot_exp + i, inverse_exp_of<S>(lanes(rows.pivot_logit, i), ref));
  };
  for_each_offset<S>(rows, n, find_inverse);
  for (int i = 0; i < n; i += kLanes<double>) {
    const Vec<double> others = lanes(rows.sum, i), inverse = lanes(rows.pivot_exp, i);
    // The product is exact to the last bits however small the loss is; it fails only where e^(x_y)
    // is nothing beside the others.
    const Vec<double> odds = others * inverse;
    if constexpr (kHasMass<kTerms>) {
      store(loss + i, lanes(rows.linear, i) + lanes(rows.mass, i) * log1p<kShort<S>>(odds));
      continue;
    }
    Vec<double> nll = log1p<kShort<S>, /*kFinite=*/true>(odds);
    const auto nothing = odds >= 1e290;
    const auto lead = [&] { return lanes(rows.pivot_logit, i) - lanes(rows.reference, i); };
    const bool plain = all_lanes(odds < 1e290);
    if (!plain) {
      nll = odds < 1e290 ? nll : odds;  // NaN
      nll = nothing ? above(i, others) - lead() : nll;
    }
    Vec<double> result = smoothing.keep * lanes(rows.target_weight, i) * nll;
    if constexpr (kTerms == Terms::kSmoothed) {
      Vec<double> lse = nll + lead();  // less the reference
      if (!plain) lse = nothing ? above(i, others) : lse;
      // Of double, nll has no digits to spare where it cancels against a target far behind.
      if constexpr (!kShort<S>) lse = odds > 1.0 ? above(i, others + 1.0 / inverse) : lse;
      result += smoothing.spread * (lanes(rows.linear, i) + smoothing.weight_sum * lse);
    }
    store(loss + i, rows.counting_lanes(i) ? result : Vec<double>{});
  }
}

// What the gradient of one row's classes is made of, in all lanes; or of a row a lane.
template <class S>
struct Factor {
  Reference<S> reference;
  Vec<Accumulate<S>> factor, grad;

  // Lane i of the result is of lane row[i].
  FUSED_CE_INLINE Factor permuted(Vec<Int<Accumulate<S>>> row) const {
    return {reference.permuted(row), permute(factor, row), permute(grad, row)};
  }
};

// What it is made of at the pivots of probabilities that lead (see Factors).
template <class A>
struct PivotFactor {
  Vec<A> logit, mass, grad, others;

  FUSED_CE_INLINE PivotFactor permuted(Vec<Int<A>> row) const {
    return {permute(logit, row), permute(mass, row), permute(grad, row), permute(others, row)};
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
  PerRow<A, kRows> leader, mass, others;
  bool some_lead;

  // Row i's in all lanes.
  FUSED_CE_INLINE Factor<S> of_row(int i) const {
    return {{splat(shift[i]), splat(c[i]), shifted}, splat(factor[i]), splat(grad[i])};
  }
  FUSED_CE_INLINE PivotFactor<A> pivot_of_row(int i) const {
    return {splat(leader[i]), splat(mass[i]), splat(grad[i]), splat(others[i])};
  }

  // Those of rows [i, i + kLanes<A>).
  FUSED_CE_INLINE Factor<S> of_lanes(int i) const {
    return {{load(shift + i), load(c + i), shifted}, load(factor + i), load(grad + i)};
  }
  FUSED_CE_INLINE PivotFactor<A> pivot_of_lanes(int i) const {
    return {load(leader + i), load(mass + i), load(grad + i), load(others + i)};
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

// grad[i] is g of row i.
template <class S, Terms kTerms, int kRows>
inline void factors_of(RowStates<Accumulate<S>, kTerms, kRows>& rows, int n,
                       const Smoothing& smoothing, const double* grad,
                       Factors<S, kTerms, kRows>& out) {
  constexpr bool kIndices = !kHasMass<kTerms>;
  out.shifted = out.some_lead = false;
  const auto find_exp = [&](int i, const Offset<double>& ref) __attribute__((always_inline)) {
    store(rows.pivot_exp + i, exp_of<S>(lanes(rows.pivot_logit, i), ref));
  };
  const auto find_factors = [&](int i, const Offset<double>& ref) __attribute__((always_inline)) {
    const Vec<double> pivot_exp = lanes(rows.pivot_exp, i);
    const Vec<double> others = lanes(rows.sum, i), total = others + pivot_exp;
    const Vec<double> g = load(grad + i);
    const Vec<double> w = kIndices ? lanes(rows.target_weight, i) : Vec<double>{};
    const Vec<double> mass = kIndices ? smoothing.keep * w + smoothing.spread * smoothing.weight_sum
                                      : lanes(rows.mass, i);
    const Vec<double> share = 1.0 / total;
    Split scale(g * mass * share);
    if constexpr (!kShort<S>) {  // what was a number of float has exponents to spare in double
      if (!all_lanes(~scale.whole)) scale = Split::product(g, mass, share);
    }

    Vec<double> at_pivot{}, spread_grad = g;
    if constexpr (kIndices) {
      spread_grad = g * smoothing.spread;
      // p_y - 1 is minus the other classes' share: no cancellation.
      at_pivot = -g * smoothing.keep * w * (others * share);
      if constexpr (kTerms == Terms::kSmoothed) {
        at_pivot += spread_grad * (smoothing.weight_sum * (pivot_exp * share) - w);
      }
    }
    out.shifted |= !all_lanes(ref.shift == 0.0);
    store_narrow(out.shift + i, ref.shift);
    store_narrow(out.c + i, ref.c - scale.exponent);
    store_narrow(out.factor + i, scale.mantissa);
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
  for_each_offset<S>(rows, n, find_exp);
  for_each_offset<S>(rows, n, find_factors);
}

}  // namespace fused_ce::cpu::FUSED_CE_ISA
