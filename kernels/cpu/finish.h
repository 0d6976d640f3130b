// SPDX-License-Identifier: BSD-3-Clause
// The finish of rows: from a row's state to its loss. Rows are finished many at a time, in double,
// one row a lane: one logarithm a row would otherwise cost more than the exponentials of a short
// row.
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
        spread(p.label_smoothing > 0 ? p.label_smoothing / static_cast<double>(all_classes(p)) : 0),
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

// How far the logits of the numbers at x lie above the references' shifts.
template <class A>
FUSED_CE_INLINE Vec<double> above_shift(const A* x, int i, A scale, const Offset<double>& ref) {
  return times_minus(lanes(x, i), splat(static_cast<double>(scale)), ref.shift);
}
// The same, rounded as the loops have it.
FUSED_CE_INLINE Vec<double> rounded_above_shift(const double* x, int i, double scale,
                                                const Offset<double>& ref) {
  return above_shift(x, i, scale, ref);
}
FUSED_CE_INLINE Vec<double> rounded_above_shift(const float* x, int i, float scale,
                                                const Offset<double>& ref) {
#if defined(FUSED_CE_FMA)
  const Vec<double> d = above_shift(x, i, scale, ref);
#else
  const Vec<double> d = lanes_times(x, i, scale) - ref.shift;
#endif
  return widen_half(__builtin_convertvector(d, NarrowOf<float>::type));
}

// The exponentials, relative to the references, of logits so far above their shifts.
template <class S>
inline Vec<double> exp_of(Vec<double> d, const Offset<double>& ref) {
  return exp_scaled<double, kShort<S>>(d, Power<double>::of(ref.c));
}
// 1 / those, infinite where they are nothing
template <class S>
inline Vec<double> inverse_exp_of(Vec<double> d, const Offset<double>& ref) {
  const Vec<double> below = at_most<double>(-d, splat(-ExpConstants<double>::kLow));
  return exp_scaled<double, kShort<S>>(below, Power<double>::of(-ref.c));
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
      if (lse) lse[i] = kHasMass<kTerms> || rows.counts(i) ? -__builtin_inf() : 0;
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
    store(rows.pivot_exp + i,
          inverse_exp_of<S>(above_shift<A>(rows.pivot_logit, i, formula.scale, ref), ref));
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

}  // namespace fused_ce::cpu::FUSED_CE_ISA
