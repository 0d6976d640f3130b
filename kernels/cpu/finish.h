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

// What a row's loss is made with, beside the row.
template <class A>
struct Formula {
  double keep, spread;  // 1 - s and s / C
  double weight_sum;
  bool no_class;
  A scale;  // what a number in memory is multiplied by to be a logit
  explicit Formula(const Problem& p)
      : keep(1 - p.label_smoothing),
        spread(p.label_smoothing > 0 ? p.label_smoothing / static_cast<double>(p.classes) : 0),
        weight_sum(p.weight_sum ? *p.weight_sum : static_cast<double>(p.classes)),
        no_class(p.classes == 0),
        scale(static_cast<A>(p.scale)) {}
};

// What the references of rows [i, i + kLanes<A>) come down to: found in lanes of the accumulate
// type, which are twice as many as of double.
template <class S, class States, class A = Accumulate<S>>
FUSED_CE_INLINE Offset<A> offset_of(const States& rows, int i, A scale) {
  return Offset<A>::template of<S>(load(rows.reference + i) * scale);
}

// Calls f(i, offset) for the vectors of rows [0, n).
template <class S, class States, class F, class A = Accumulate<S>>
FUSED_CE_INLINE void for_each_offset(const States& rows, int n, A scale, F f) {
  for (int i = 0; i < n; i += kLanes<A>) {
    const Offset<A> offset = offset_of<S>(rows, i, scale);
    if constexpr (sizeof(A) == sizeof(double)) {
      f(i, offset);
    } else {
      const Widened shift = widen(offset.shift), c = widen(offset.c);
      f(i, Offset<double>{shift.low, c.low});
      f(i + kLanes<double>, Offset<double>{shift.high, c.high});
    }
  }
}

// e^z relative to a reference
template <class S>
inline Vec<double> exp_of(Vec<double> z, const Offset<double>& ref) {
  return exp_scaled<double, kShort<S>>(z - ref.shift, Power<double>::of(ref.c));
}

// 1 / exp_of(z, ref), infinite where that is nothing
template <class S>
inline Vec<double> inverse_exp_of(Vec<double> z, const Offset<double>& ref) {
  const Vec<double> d = at_most<double>(ref.shift - z, splat(-ExpConstants<double>::kLow));
  return exp_scaled<double, kShort<S>>(d, Power<double>::of(-ref.c));
}

// lse - z, where z is the reference and the sum of all exponentials is `total`. The reference
// cancels against z first, while the products are still exact.
FUSED_CE_INLINE Vec<double> log_sum_above(Vec<double> z, const Offset<double>& ref,
                                          Vec<double> total) {
  using K = ExpConstants<double>;
  return ((ref.shift - z) + ref.c * K::kLn2High) + (ref.c * K::kLn2Low + log(total));
}
// lse itself. The reference's power of two cancels against the total's as an integer.
template <class S>
FUSED_CE_OUT_OF_LINE Vec<double> log_sum(const Offset<double>& ref, Vec<double> total) {
  using K = ExpConstants<double>;
  const Vec<int64_t> k = exponent_of(total);
  const Vec<int64_t> c = bits_as<Vec<int64_t>>(ref.c + K::kRound) - bits_as<int64_t>(K::kRound);
  const Vec<double> m = bits_as<Vec<double>>(bits_as<Vec<int64_t>>(total) - (k << 52));
  const Vec<double> log = log_of_parts<kShort<S>>(k + c, m - 1.0, Vec<double>{});
  const Vec<double> no_number = total - total;  // of infinity and NaN, else 0
  return ref.shift + (log + no_number);
}

// The finish is cut into loops with short chains of dependent instructions, of which the processor
// runs several at a time; in one loop each vector would wait for the one before.

// loss[0, n), and lse[0, n) unless that is null: rows that do not count give 0. (Of infinite
// logits, lse is no finite number, but perhaps the wrong one.) Arrays are read up to the next
// multiple of a vector.
template <class S, Terms kTerms, int kRows, class A = Accumulate<S>>
inline void losses_of(RowStates<A, kTerms, kRows>& rows, int n, const Formula<A>& formula,
                      double* loss, double* lse) {
  if (formula.no_class) {  // an empty sum, of which torch spreads s / 0 over class indices
    for (int i = 0; i < n; ++i) {
      loss[i] = kIsSmoothed<kTerms> ? __builtin_nan("") : 0;
      if (lse) lse[i] = -__builtin_inf();
    }
    return;
  }
  const double scale = static_cast<double>(formula.scale);
  if (kHasLinear<kTerms> && formula.scale != 1) {
    for (int i = 0; i < n; ++i) rows.linear[i] *= scale;
  }
  const auto reference_of = [&](int i) __attribute__((always_inline)) {
    return Offset<double>::template of<S>(lanes_times(rows.reference, i, formula.scale));
  };
  // lse less the reference's logit, where the sum of all exponentials is `total`.
  const auto above = [&](int i, Vec<double> total) __attribute__((always_inline)) {
    return log_sum_above(lanes(rows.reference, i) * scale, reference_of(i), total);
  };
  const auto put_lse = [&](int i, Vec<double> value) __attribute__((always_inline)) {
    const auto counts = kHasMass<kTerms> ? ~Vec<int64_t>{} : rows.counting_lanes(i);
    store(lse + i, counts ? value : Vec<double>{});
  };
  const auto find_inverse = [&](int i, const Offset<double>& ref) __attribute__((always_inline)) {
    store(rows.pivot_exp + i, inverse_exp_of<S>(lanes(rows.pivot_logit, i) * scale, ref));
  };
  for_each_offset<S>(rows, n, formula.scale, find_inverse);
  for (int i = 0; i < n; i += kLanes<double>) {
    const Vec<double> others = lanes(rows.sum, i), inverse = lanes(rows.pivot_exp, i);
    // The product is exact to the last bits however small the loss is; it fails only where e^(x_y)
    // is nothing beside the others.
    const Vec<double> odds = others * inverse;
    if constexpr (kHasMass<kTerms>) {
      const Vec<double> others_above = log1p<kShort<S>>(odds);
      store(loss + i, lanes(rows.linear, i) + lanes(rows.mass, i) * others_above);
      if (lse) put_lse(i, lanes(rows.reference, i) * scale + others_above);
      continue;
    }
    Vec<double> nll = log1p<kShort<S>, /*kFinite=*/true>(odds);
    const auto nothing = odds >= 1e290;
    const auto lead = [&] {
      return (lanes(rows.pivot_logit, i) - lanes(rows.reference, i)) * scale;
    };
    const bool plain = all_lanes(odds < 1e290);
    if (!plain) {
      nll = odds < 1e290 ? nll : odds;  // NaN
      nll = nothing ? above(i, others) - lead() : nll;
    }
    Vec<double> result = formula.keep * lanes(rows.target_weight, i) * nll;
    if constexpr (kIsSmoothed<kTerms>) {
      Vec<double> from_reference = nll + lead();
      if (!plain) from_reference = nothing ? above(i, others) : from_reference;
      // Of double, nll has no digits to spare where it cancels against a target far behind.
      if constexpr (!kShort<S>)
        from_reference = odds > 1.0 ? above(i, others + 1.0 / inverse) : from_reference;
      result += formula.spread * (lanes(rows.linear, i) + formula.weight_sum * from_reference);
    }
    if (lse) {
      Vec<double> value = lanes(rows.pivot_logit, i) * scale + nll;
      // Of double, nll has no digits to spare where it cancels against a target far behind.
      const auto cancels = kShort<S> ? nothing : odds > 1.0;
      if (!all_lanes(~cancels)) {
        const Vec<double> all = others + (nothing ? Vec<double>{} : 1.0 / inverse);
        value = cancels ? log_sum<S>(reference_of(i), all) : value;
      }
      put_lse(i, value);
    }
    store(loss + i, rows.counting_lanes(i) ? result : Vec<double>{});
  }
}

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
    store(rows.pivot_exp + i, exp_of<S>(lanes(rows.pivot_logit, i) * scale, ref));
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
      const Vec<double> behind =
          (lanes(rows.reference, i) - lanes(rows.pivot_logit, i)) * scale - gap;
      store(rows.pivot_exp + i, (more + of_entropy * behind) * (pivot_exp * share));
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
