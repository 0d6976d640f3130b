// SPDX-License-Identifier: BSD-3-Clause
// What a slice of the classes leaves of rows in the place of a loss, to be put together with what
// the other slices come to (see SliceSums).
#pragma once

#include "statistics.h"
#include "targets.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

// The linear sum of row i relative to the largest logit, which its sums of exponentials are by now.
template <Terms kTerms, int kRows, class A>
inline double linear_below(const RowStates<A, kTerms, kRows>& rows, int i,
                           const Formula<A>& formula) {
  const double scale = static_cast<double>(formula.scale);
  if constexpr (kHasMass<kTerms>) return rows.linear[i] * scale;
  if (formula.spread == 0) return 0;
  const double above =
      static_cast<double>(rows.largest[i]) - static_cast<double>(rows.reference[i]);
  return (rows.linear[i] + formula.weight_sum * above) * scale;
}

// The first NaN of a row, or kIgnored.
template <class S>
FUSED_CE_OUT_OF_LINE int64_t first_nan(const Problem& p, int64_t row) {
  const S* x = static_cast<const S*>(p.logits) + row_offset(p, p.logits_strides, row);
  for (int64_t c = 0; c < p.classes; ++c, x += p.logits_strides.classes) {
    const Accumulate<S> value = get(x);
    if (value != value) return c;
  }
  return kIgnored;
}

// Of rows [first, first + n), of which `finished` has the statistics.
template <class S, Terms kTerms, int kRows, class A = Accumulate<S>>
FUSED_CE_OUT_OF_LINE void put_slice(const Problem& p, const Formula<A>& formula,
                                    const RowStates<A, kTerms, kRows>& rows, int64_t first, int n,
                                    const Finished<kRows>& finished, const SliceSums& out) {
  using Number = SliceSums::Number;
  for (int i = 0; i < n; ++i) {
    double* const number = out.numbers + (first + i) * Number::kNumbers;
    double largest = static_cast<double>(rows.largest[i]);
    int64_t prediction = rows.prediction[i];
    if (finished.confidence[i] != finished.confidence[i]) {
      if (const int64_t c = first_nan<S>(p, first + i); c >= 0) {
        largest = __builtin_nan("");
        prediction = c;
      }
    }
    const bool here = !kHasMass<kTerms> && rows.has_pivot(i);
    // Nothing is relative to -inf, where all logits are.
    const bool has_sums = largest != -__builtin_inf();
    number[Number::kLargest] = largest;
    number[Number::kOthers] = has_sums ? rows.sum[i] : 0;
    number[Number::kGap] = has_sums ? rows.gap[i] : 0;
    number[Number::kTargetLogit] = here ? static_cast<double>(rows.pivot_logit[i]) : 0;
    number[Number::kTargetWeight] = here ? rows.target_weight[i] : 0;
    // What probabilities weigh there is infinite, or no number, as of one process.
    const double nothing = kHasMass<kTerms> ? rows.mass[i] * __builtin_inf() : 0;
    number[Number::kLinear] = has_sums ? linear_below(rows, i, formula) : nothing;
    number[Number::kMass] = kHasMass<kTerms> ? rows.mass[i] : 0;
    number[Number::kPrediction] = static_cast<double>(p.slice.first + prediction);
  }
}

}  // namespace fused_ce::cpu::FUSED_CE_ISA
