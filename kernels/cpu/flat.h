// SPDX-License-Identifier: BSD-3-Clause
// The gradient of rows of few classes: the lanes of a vector are neighbours in memory, whatever
// rows they belong to, so that no lane is empty and nothing is transposed. As many rows as a vector
// has lanes are as many vectors as there are classes: their factors are held in a vector, of which
// a permutation brings every lane its row's.
#pragma once

#include "objective.h"
#include "targets.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

// Rows of at most so many classes: beyond, a permutation costs more than empty lanes, of which wide
// vectors have more.
inline constexpr int64_t kFlatClasses = kLanes<float> > 8 ? 128 : 48;
// Rows finished together.
inline constexpr int kFlatTile = 128;

template <class S, Terms kTerms>
class Flat {
  using A = Accumulate<S>;
  using V = Vec<A>;
  using I = Vec<Int<A>>;
  static constexpr bool kIndices = Objective<S, kTerms>::kIndices;
  static constexpr int kW = kLanes<A>;

 public:
  explicit Flat(const Problem& problem)
      : p_(problem),
        classes_(static_cast<int>(problem.classes)),
        rows_step_(classes_ > 0 ? kW / classes_ : 0),
        class_step_(classes_ > 0 ? kW % classes_ : 0),
        objective_(problem) {
    if (classes_ == 0) return;
    for (int k = 0, row = 0, c = 0; k < classes_ + kW; ++k) {
      row_of_[k] = static_cast<Int<A>>(row);
      weight_of_[k] = objective_.class_weight(c);
      if (++c == classes_) c = 0, ++row;
    }
  }

  // rows [first, first + n) of one tile
  void backward(const Backward& back, int64_t first, int n, bool /*streamed*/) {
    const int padded = (n + kW - 1) / kW * kW;
    const S* x = flat_rows(p_, first, n, gathered_);
    if constexpr (kIndices) read_targets(p_, first, n, padded, rows_);
    read_saved<S>(p_, back, first, n, padded, rows_, incoming_);
    objective_.factors(rows_, padded, incoming_, factors_);

    const Strides& to = back.grad_strides;
    const bool in_place = p_.inner == 1 && to.classes == 1 && to.outer == classes_;
    S* g = in_place ? static_cast<S*>(back.grad_logits) + first * classes_ : gathered_;
    const A* t = kIndices ? nullptr : probabilities(first, n);
    for (int i = 0; i < n; i += kW) {
      const int at = i * classes_, size = smaller(n - i, kW) * classes_;
      if constexpr (sizeof(S) == sizeof(A)) {
        write(x + at, kIndices ? t : t + at, i, size, g + at);
      } else {  // conversion is a loop of its own, as in row_gradients.h
        write(x + at, kIndices ? t : t + at, i, size, gradient_);
        convert(gradient_, g + at, size, /*streamed=*/false);
      }
    }
    if constexpr (kIndices) put_targets(g, n);
    if (!in_place) scatter(back, first, n);
  }

 private:
  // The `size` gradients of the vector of rows that begins with row i of the tile.
  void write(const S* x, const A* t, int i, int size, A* g) {
    const Factor<S, kIsRanked<kTerms>> factors = factors_.of_lanes(i);
    const bool some_lead = !kIndices && factors_.some_lead;
    PivotFactor<A> pivots;
    if constexpr (!kIndices) pivots = factors_.pivot_of_lanes(i);
    int c = 0, first_row = 0;  // of a vector's first lane: its class, and its row of the kW
    const auto at = [&](V logits, V target) __attribute__((always_inline)) {
      const I row = load(row_of_ + c) + static_cast<Int<A>>(first_row);
      const V q = objective_.has_linear() ? objective_.weight(load(weight_of_ + c), target) : V{};
      return some_lead ? objective_.gradient(factors.permuted(row), pivots.permuted(row), logits, q)
                       : objective_.gradient(factors.permuted(row), logits, q);
    };
    int k = 0;
    for (; k + kW <= size; k += kW) {
      store(g + k, at(objective_.logits(x + k), kHasMass<kTerms> ? load(t + k) : V{}));
      c += class_step_;
      first_row += rows_step_;
      if (c >= classes_) c -= classes_, ++first_row;
    }
    if (k < size) {
      const V target = kHasMass<kTerms> ? load_partial(t + k, size - k, A(0)) : V{};
      store_partial(g + k, size - k, at(objective_.logits(x + k, size - k, A(0)), target));
    }
  }

  void put_targets(S* g, int n) {
    // Conversion is a loop of its own.
    const S* at_target = reinterpret_cast<const S*>(factors_.at_pivot.values);
    if constexpr (sizeof(S) != sizeof(A)) {
      convert(factors_.at_pivot.values, at_target_, n, /*streamed=*/false);
      at_target = at_target_;
    }
    for (int i = 0; i < n; ++i) {
      S* row = g + i * classes_;
      if (rows_.has_pivot(i)) {
        row[rows_.pivot[i]] = at_target[i];
      } else if (!rows_.counts(i)) {
        __builtin_memset(row, 0, static_cast<size_t>(classes_) * sizeof(S));
      }
    }
  }

  const A* probabilities(int64_t first, int n) {
    const Strides& s = p_.target_strides;
    if (p_.inner == 1 && s.classes == 1 && s.outer == classes_) {
      return gather<A>(p_.target, p_.target_dtype, first * classes_, 1, n * classes_, targets_);
    }
    for (int i = 0; i < n; ++i) {
      A* out = targets_ + i * classes_;
      const A* row = gather<A>(p_.target, p_.target_dtype, row_offset(p_, s, first + i), s.classes,
                               classes_, out);
      if (row != out) __builtin_memcpy(out, row, static_cast<size_t>(classes_) * sizeof(A));
    }
    return targets_;
  }

  void scatter(const Backward& back, int64_t first, int n) const {
    for (int i = 0; i < n; ++i) {
      S* row = static_cast<S*>(back.grad_logits) + row_offset(p_, back.grad_strides, first + i);
      for (int c = 0; c < classes_; ++c)
        row[c * back.grad_strides.classes] = gathered_[i * classes_ + c];
    }
  }

  const Problem& p_;
  const int classes_;
  const int rows_step_, class_step_;  // from one vector of values to the next
  const Objective<S, kTerms> objective_;
  RowStates<A, kTerms, kFlatTile> rows_;
  Factors<S, kTerms, kFlatTile> factors_;
  Incoming<kFlatTile> incoming_;
  // Of a row's values and those that follow: how many rows further each is, and its class's weight.
  alignas(64) Int<A> row_of_[kFlatClasses + kW];
  alignas(64) A weight_of_[kFlatClasses + kW];
  alignas(64) S gathered_[kFlatClasses * kFlatTile];
  alignas(64) S at_target_[kFlatTile];
  alignas(64) A gradient_[kFlatClasses * kW];
  alignas(64) A targets_[kFlatClasses * kFlatTile];
};

}  // namespace fused_ce::cpu::FUSED_CE_ISA
