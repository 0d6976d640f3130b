// SPDX-License-Identifier: BSD-3-Clause
// The finish of rows of which statistics are asked for. With k the class of the largest logit,
// whose own exponential stays out of the sums,
//   S = sum_{j != k} e^(z_j - z_k),  L = sum_{j != k} e^(z_j - z_k) (z_k - z_j),
// a row's lse is z_k + log(1 + S), its entropy log(1 + S) + L / (1 + S), p_k is 1 / (1 + S), and
// lse - z_y is (z_k - z_y) + log(1 + S): no term is negative, and nothing cancels.
#pragma once

#include "finish.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

// What the sums of a vector of rows come down to.
struct Ranked {
  Vec<double> others;  // S
  Vec<double> top;     // log(1 + S)
  Vec<double> gap;     // L / (1 + S), the mean of z_k - z_j
  Vec<double> share;   // 1 / (1 + S)
  // `lead`: how far z_k is above the reference, to which the sums are relative; `inverse`: of its
  // exponential.
  template <class S>
  static Ranked of(Vec<double> sum, Vec<double> gap, Vec<double> lead, Vec<double> inverse) {
    const Vec<double> others = sum * inverse, share = 1.0 / (1.0 + others);
    return {others, log1p<kShort<S>>(others), (gap * inverse + lead * others) * share, share};
  }
};

// How far a reference may be below the largest logit without a loss in exponentials alone, whatever
// was subtracted from their arguments.
inline constexpr double kNear = 4;
// The same where nothing was: farther, those of half types lose digits.
template <class S>
inline constexpr double kNearUnshifted = sizeof(S) == 2 ? ReferenceConstants<S>::kLargest : 58;
template <>
inline constexpr double kNearUnshifted<double> = 700;
// How far it may be at all: farther, exponentials near the largest are no numbers, or the inverse
// of the largest's own.
template <class A>
inline constexpr double kFarthestNear = sizeof(A) == sizeof(float) ? 58 : 700;
// A linear sum takes the largest logit's term as well.
inline constexpr double kFarthestLinear = 8;

// Whether a guess was near enough, of a vector of rows, `lead` below their largest logits. What
// statistics need from there, L = gap + lead sum, is a difference where logits lie above the guess:
// lead sum may be 1.5 times the entropy, which is at least sum + L beside 1 + S.
inline Vec<int64_t> are_gaps_near(Vec<double> sum, Vec<double> gap, Vec<double> lead) {
  return gap + sum * (1.0 + lead * (1.0 / 3)) >= 0.0;
}

// Whether guesses were near enough in rows [begin, end) for what is asked of them. Arrays are read
// up to the next multiple of a vector.
template <class S, Terms kTerms, int kRows, class A = Accumulate<S>>
FUSED_CE_OUT_OF_LINE bool are_near_enough(const RowStates<A, kTerms, kRows>& rows, int begin,
                                          int end, const Formula<A>& formula, bool wants_gap) {
  const double scale = static_cast<double>(formula.scale);
  const bool linear = !kHasMass<kTerms> && formula.spread > 0;
  const double farthest = linear ? kFarthestLinear : kFarthestNear<A>;
  for (int i = begin; i < end; i += kLanes<double>) {
    const Vec<double> sum = lanes(rows.sum, i), m = lanes(rows.reference, i);
    const Vec<double> lead = (lanes(rows.largest, i) - m) * scale;
    Vec<int64_t> near = (sum >= 0.0) & (sum < ReferenceConstants<S>::kLargestSum);
    near &= lead <= farthest;
    if (wants_gap) {
      near &= are_gaps_near(sum, lanes(rows.gap, i), lead);
    } else {
      const auto unshifted = magnitude<double>(m * scale) < ReferenceConstants<S>::kLargest;
      near &= (lead <= kNear) | (unshifted & (lead <= kNearUnshifted<S>));
    }
    const Vec<int64_t> there = iota<int64_t>() < static_cast<int64_t>(end - i);
    if (!all_lanes(near | ~there)) return false;
  }
  return true;
}

// All that `out` has room for. The numbers that backward needs, if they are saved, become relative
// to the largest logit, which is near enough to every row's.
template <class S, Terms kTerms, int kRows, class A = Accumulate<S>>
inline void statistics_of(RowStates<A, kTerms, kRows>& rows, int n, const Formula<A>& formula,
                          bool saves, Finished<kRows>& out) {
  const double scale = static_cast<double>(formula.scale);
  if (formula.no_class) {
    for (int i = 0; i < n; ++i) {
      out.loss[i] = !kHasMass<kTerms> && formula.spread > 0 ? __builtin_nan("") : 0;
      out.lse[i] = kHasMass<kTerms> || rows.counts(i) ? -__builtin_inf() : 0;
      out.entropy[i] = 0;
      out.confidence[i] = __builtin_nan("");
    }
    return;
  }
  const auto find_inverse = [&](int i, const Offset<double>& ref) __attribute__((always_inline)) {
    const Vec<double> d = above_shift<A>(rows.largest, i, formula.scale, ref);
    store(rows.pivot_exp + i, inverse_exp_of<S>(d, ref));
    store(out.lead + i, d - rounded_above_shift(rows.reference, i, formula.scale, ref));
  };
  for_each_offset<S>(rows, n, formula.scale, find_inverse);
  for (int i = 0; i < n; i += kLanes<double>) {
    const Vec<double> z = lanes(rows.largest, i) * scale;
    const Vec<double> lead = load(out.lead + i);
    const Vec<double> sum = lanes(rows.sum, i);
    const Ranked row = Ranked::of<S>(sum, lanes(rows.gap, i), lead, lanes(rows.pivot_exp, i));
    const Vec<double> no_number = z - z;  // of an infinite logit, else 0
    const auto counts = kHasMass<kTerms> ? ~Vec<int64_t>{} : rows.counting_lanes(i);

    Vec<double> loss;
    if constexpr (kHasMass<kTerms>) {
      loss = lanes(rows.linear, i) * scale + lanes(rows.mass, i) * row.top;
    } else {
      const Vec<double> behind = (lanes(rows.largest, i) - lanes(rows.pivot_logit, i)) * scale;
      loss = formula.keep * lanes(rows.target_weight, i) * (behind + row.top);
      if (formula.spread > 0) {  // the linear sums are of differences before any scale
        const Vec<double> above = (lanes(rows.largest, i) - lanes(rows.reference, i)) * scale;
        loss += formula.spread *
                (lanes(rows.linear, i) * scale + formula.weight_sum * (above + row.top));
      }
    }
    const auto put = [&](double* to, Vec<double> value) __attribute__((always_inline)) {
      store(to + i, counts ? value : Vec<double>{});
    };
    put(out.loss, loss + no_number);
    put(out.lse, z + row.top);
    put(out.entropy, row.top + row.gap + no_number);
    store(out.confidence + i, row.share + no_number);
    store(rows.gap + i, row.gap);
    store(rows.sum + i, row.others);
  }
  if (!saves) return;
  // The sum without the target's exponential in the place of the largest's.
  for (int i = 0; i < n; i += kLanes<double>) {
    Vec<double> others = lanes(rows.sum, i);
    if constexpr (!kHasMass<kTerms>) {
      const Vec<double> d = (lanes(rows.pivot_logit, i) - lanes(rows.largest, i)) * scale;
      const Vec<double> target = exp_scaled<double, kShort<S>>(d, Power<double>::of(Vec<double>{}));
      others = d < 0.0 ? at_least<double>(others - target, Vec<double>{}) + 1.0 : others;
    }
    store(rows.sum + i, others);
  }
  // Where the reference was the largest itself, the inverse is known already.
  bool same = true;
  for (int i = 0; i < n; i += kLanes<A>)
    same &= all_lanes(load(rows.reference + i) == load(rows.largest + i));
  if (same) {
    for (int i = 0; i < n; i += kLanes<double>)
      store(rows.sum + i, lanes(rows.sum, i) / lanes(rows.pivot_exp, i));
    return;
  }
  for (int i = 0; i < n; i += kLanes<A>) store(rows.reference + i, load(rows.largest + i));
  const auto relative = [&](int i, const Offset<double>& ref) __attribute__((always_inline)) {
    const Vec<double> d = above_shift<A>(rows.largest, i, formula.scale, ref);
    store(rows.sum + i, lanes(rows.sum, i) * exp_of<S>(d, ref));
  };
  for_each_offset<S>(rows, n, formula.scale, relative);
}

}  // namespace fused_ce::cpu::FUSED_CE_ISA
