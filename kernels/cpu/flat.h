// The gradient of rows of few classes: the lanes of a vector are neighbours in memory, whatever
// rows they belong to, so that no lane is empty and nothing is transposed. As many rows as a vector
// has lanes are as many vectors as there are classes: their factors are held in a vector, of which
// a permutation brings every lane its row's.
#pragma once

#include "layout.h"
#include "terms.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

// Rows of at most so many classes: beyond, a permutation costs more than empty lanes, of which wide
// vectors have more.
inline constexpr int64_t kFlatClasses = kLanes<float> > 8 ? 128 : 48;
// Rows finished together.
inline constexpr int kFlatTile = 128;

template <class S>
class Flat {
  using A = Accumulate<S>;
  using V = Vec<A>;
  using I = Vec<Int<A>>;
  static constexpr int kW = kLanes<A>;

 public:
  explicit Flat(const Problem& problem)
      : p_(problem),
        classes_(static_cast<int>(problem.classes)),
        rows_step_(classes_ > 0 ? kW / classes_ : 0),
        class_step_(classes_ > 0 ? kW % classes_ : 0),
        smoothing_(problem),
        mixing_(smoothing_) {
    const A* weight = static_cast<const A*>(p_.weight);
    if (classes_ == 0) return;
    for (int k = 0, row = 0, c = 0; k < classes_ + kW; ++k) {
      row_of_[k] = static_cast<Int<A>>(row);
      weight_of_[k] = weight ? weight[c] : A(1);
      if (++c == classes_) c = 0, ++row;
    }
  }

  // rows [first, first + n) of one tile
  template <Terms kTerms>
  void backward(const Backward& out, int64_t first, int n, bool /*streamed*/) {
    constexpr bool kIndices = kTerms != Terms::kProbabilities;
    const int padded = (n + kW - 1) / kW * kW;
    const S* x = flat_rows(p_, first, n, gathered_);
    if constexpr (kIndices) read_targets<A>(p_, first, n, padded, group_);
    read_saved<A, kIndices>(out, first, n, padded, group_, grad_);
    finish_backward<S, kIndices>(group_, padded, smoothing_, grad_, factors_);

    const Strides& to = out.grad_strides;
    const bool in_place = p_.inner == 1 && to.classes == 1 && to.outer == classes_;
    S* g = in_place ? static_cast<S*>(out.grad_logits) + first * classes_ : gathered_;
    const A* t = kIndices ? nullptr : probabilities(first, n);
    for (int i = 0; i < n; i += kW) {
      const int at = i * classes_, size = smaller(n - i, kW) * classes_;
      if constexpr (sizeof(S) == sizeof(A)) {
        write<kTerms>(x + at, t + at, i, size, g + at);
      } else {  // conversion is a loop of its own, as in row_gradients.h
        write<kTerms>(x + at, t + at, i, size, gradient_);
        convert(gradient_, g + at, size, /*streamed=*/false);
      }
    }
    if constexpr (kIndices) put_targets(g, n);
    if (!in_place) scatter(out, first, n);
  }

 private:
  // The `size` gradients of the group of rows that begins with row i of the tile.
  template <Terms kTerms>
  void write(const S* x, const A* t, int i, int size, A* g) {
    const V shifts = load(factors_.shift + i), cs = load(factors_.c + i);
    const V factors = load(factors_.factor + i), grads = load(factors_.grad + i);
    int c = 0, first_row = 0;  // of a vector's first lane: its class, and its row in the group
    const auto at = [&](V logits, V target) __attribute__((always_inline)) {
      const I row = load(row_of_ + c) + static_cast<Int<A>>(first_row);
      const Reference<S> ref(permute(shifts, row), permute(cs, row), factors_.shifted);
      V q{};
      if constexpr (kTerms == Terms::kSmoothed) q = load(weight_of_ + c);
      if constexpr (kTerms == Terms::kProbabilities) q = mixing_(load(weight_of_ + c), target);
      return gradient<kTerms>(ref, permute(factors, row), permute(grads, row), logits, q);
    };
    constexpr bool kTargets = kTerms == Terms::kProbabilities;
    int k = 0;
    for (; k + kW <= size; k += kW) {
      store(g + k, at(load(x + k), kTargets ? load(t + k) : V{}));
      c += class_step_;
      first_row += rows_step_;
      if (c >= classes_) c -= classes_, ++first_row;
    }
    if (k < size) {
      const V target = kTargets ? load_partial(t + k, size - k, A(0)) : V{};
      store_partial(g + k, size - k, at(load_partial(x + k, size - k, A(0)), target));
    }
  }

  void put_targets(S* g, int n) const {
    for (int i = 0; i < n; ++i) {
      S* row = g + i * classes_;
      if (group_.pivot[i] < 0) {
        __builtin_memset(row, 0, static_cast<size_t>(classes_) * sizeof(S));
      } else {
        put(row + group_.pivot[i], factors_.at_target[i]);
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

  void scatter(const Backward& out, int64_t first, int n) const {
    for (int i = 0; i < n; ++i) {
      S* row = static_cast<S*>(out.grad_logits) + row_offset(p_, out.grad_strides, first + i);
      for (int c = 0; c < classes_; ++c)
        row[c * out.grad_strides.classes] = gathered_[i * classes_ + c];
    }
  }

  const Problem& p_;
  const int classes_;
  const int rows_step_, class_step_;  // from one vector of values to the next
  const Smoothing smoothing_;
  const Mixing<A> mixing_;
  Group<A, kFlatTile> group_;
  Factors<A, kFlatTile> factors_;
  alignas(64) double grad_[kFlatTile];
  // Of a row's values and those that follow: how many rows further each is, and its class's weight.
  alignas(64) Int<A> row_of_[kFlatClasses + kW];
  alignas(64) A weight_of_[kFlatClasses + kW];
  alignas(64) S gathered_[kFlatClasses * kFlatTile];
  alignas(64) A gradient_[kFlatClasses * kW];
  alignas(64) A targets_[kFlatClasses * kFlatTile];
};

}  // namespace fused_ce::cpu::FUSED_CE_ISA
