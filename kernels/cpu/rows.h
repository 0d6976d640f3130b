// The sums of rows of many classes: long rows one by one, short rows in batches. The logits are
// read once, and beside probabilities before, for the largest and its class.
#pragma once

#include "blocks.h"
#include "results.h"
#include "transpose.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

// Indices: the first guess of a row's reference is the largest of so many logits.
inline constexpr int kProbe = 128;

template <class S>
class Rows : Blocks<S> {
  using Base = Blocks<S>;
  using Base::block, Base::block_size, Base::probabilities;
  using Base::first_of, Base::largest, Base::largest_lanes;
  using Base::kBlock, Base::kNone, Base::kW;
  using Base::p_, Base::smoothing_, Base::mixing_, Base::weight_, Base::row;
  using typename Base::A, typename Base::V;

 public:
  explicit Rows(const Problem& problem) : Base(problem) {
    for (A& limit : limits_) limit = -kNone;
    limits_[kBlock] = kNone;
  }

  template <Terms kTerms>
  Partial forward(const Forward& out, int64_t begin, int64_t end) {
    constexpr bool kIndices = kTerms != Terms::kProbabilities;
    TaskSums sums;
    for (int64_t first = begin; first < end; first += kRowGroup) {
      const int n = static_cast<int>(end - first < kRowGroup ? end - first : kRowGroup);
      const int64_t bad = open<kIndices>(first, n);
      if (sums.bad_row < 0) sums.bad_row = bad;
      if (p_.classes <= kBlock) {
        for (int i = 0; i < n; i += kW) sum_batch<kTerms>(first, i, n - i < kW ? n - i : kW);
      } else {
        for (int i = 0; i < n; ++i) {
          if (kIndices && group_.pivot[i] < 0) {
            blank(i);
          } else {
            sum_row<kTerms>(first + i, i);
          }
        }
      }
      put_group<S, kIndices>(p_, smoothing_, group_, first, n, out, loss_, sums);
    }
    return sums.partial();
  }

 private:
  void blank(int i) {
    group_.reference[i] = 0;
    group_.sum[i] = 1;
    group_.linear[i] = group_.mass[i] = 0;
    group_.pivot_logit[i] = 0;
  }

  // Reads the targets of rows [first, first + n) and their logits. Returns the first bad row.
  // Lanes past the group's end are computed with: they get harmless values.
  template <bool kIndices>
  int64_t open(int64_t first, int n) {
    const int padded = (n + kW - 1) / kW * kW;
    for (int i = n; i < padded; ++i) blank(i);
    if constexpr (!kIndices) return kNoBadRow;
    const int64_t bad = read_targets<A>(p_, first, n, padded, group_);
    for (int i = 0; i < padded; ++i) {
      const int64_t y = group_.pivot[i];
      group_.pivot_logit[i] = y < 0 ? A(0) : get(row(first + i) + y * p_.logits_strides.classes);
    }
    return bad;
  }

  // The first guess of a row's reference. The sum of exponentials has headroom enough for any guess
  // that is near the row's logits, as the target's is in all but the worst predictions; the linear
  // sum would lose digits with one far from the largest.
  template <Terms kTerms>
  A guess(const S* x, int i) {
    if (kTerms == Terms::kIndices && group_.pivot_logit[i] > kNone) return group_.pivot_logit[i];
    const A m =
        larger(largest(x, p_.classes < kProbe ? p_.classes : kProbe), group_.pivot_logit[i]);
    return m == kNone ? largest(x, p_.classes) : m;
  }

  template <Terms kTerms>
  void sum_row(int64_t row, int i) {
    const S* x = this->row(row);
    if constexpr (kTerms == Terms::kProbabilities) {
      group_.pivot_logit[i] = largest(x, p_.classes);
      group_.pivot[i] = first_of(x, group_.pivot_logit[i]);
      return sum_row_relative_to<kTerms>(x, row, i, group_.pivot_logit[i]);
    }
    sum_row_relative_to<kTerms>(x, row, i, guess<kTerms>(x, i));
    if (!in_range<kTerms>(i)) sum_row_relative_to<kTerms>(x, row, i, largest(x, p_.classes));
  }

  template <Terms kTerms>
  bool in_range(int i) const {
    const double largest = largest_sum<S>(kTerms != Terms::kIndices, p_.classes);
    return group_.sum[i] >= 0 && group_.sum[i] < largest;
  }

  template <Terms kTerms>
  void sum_row_relative_to(const S* row_start, int64_t row, int i, A m) {
    const RowSums<A> total =
        sums_of<kTerms>(row_start, row, i, m, Reference<S>(Offset<A>::template of<S>(splat(m))));
    group_.reference[i] = m;
    group_.sum[i] = total.exponentials.total();
    if constexpr (kTerms != Terms::kIndices) group_.linear[i] = total.linear.total();
    if constexpr (kTerms == Terms::kProbabilities) group_.mass[i] = total.mass.total();
  }

  template <Terms kTerms>
  FUSED_CE_INLINE RowSums<A> sums_of(const S* row_start, int64_t row, int i, A m,
                                     const Reference<S>& ref) {
    const int64_t y = group_.pivot[i];
    RowSums<A> total;
    for (int64_t b = 0; b < p_.classes; b += kBlock) {
      const int n = block_size(p_.classes - b);
      const S* x = block(row_start, b, n);
      const A* t = kTerms == Terms::kProbabilities ? probabilities(row, b, n) : nullptr;
      const A* w = weight_ ? weight_ + b : nullptr;
      if (y >= b && y < b + n) {
        sum_block<kTerms, true, kSecondCache>(x, w, t, n, ref, splat(m), static_cast<int>(y - b),
                                              total);
      } else {
        sum_block<kTerms, false, kSecondCache>(x, w, t, n, ref, splat(m), 0, total);
      }
    }
    return total;
  }

  // A vector's worth of short rows. Their references are found together before, and their lanes
  // added up together after: a row that did it all by itself would be one long chain of
  // dependent instructions, and keep the next rows waiting.
  template <Terms kTerms>
  void sum_batch(int64_t first, int i, int n) {
    constexpr bool kIndices = kTerms != Terms::kProbabilities;
    V m = load(group_.pivot_logit + i);
    if constexpr (kTerms == Terms::kSmoothed)
      m = larger(m, largest_of_batch(first + i, n, smaller<int64_t>(p_.classes, kProbe)));
    if constexpr (kTerms == Terms::kProbabilities) {
      m = largest_of_batch(first + i, n, p_.classes);
      store(group_.pivot_logit + i, m);
      for (int r = i; r < i + n; ++r)
        group_.pivot[r] = first_of(row(first + r), group_.pivot_logit[r]);
    }
    store(group_.reference + i, m);
    const Offset<A> offset = Offset<A>::template of<S>(m);
    const bool shifted = !all_lanes(offset.shift == A(0));
    alignas(64) A shift[kW], c[kW];
    store(shift, offset.shift);
    store(c, offset.c);
    Vec<double> exponentials[kW] = {}, linear[kW] = {}, mass[kW] = {};
    for (int r = 0; r < n; ++r) {
      if (kIndices && group_.pivot[i + r] < 0) continue;
      const Reference<S> ref(splat(shift[r]), splat(c[r]), shifted);
      const int n_classes = static_cast<int>(p_.classes);
      const int64_t at = first + i + r;
      const A* t = kIndices ? nullptr : probabilities(at, 0, n_classes);
      const int y = static_cast<int>(group_.pivot[i + r]);
      RowSums<A> sums;
      sum_block<kTerms, true, kFirstCache>(block(row(at), 0, n_classes), weight_, t, n_classes, ref,
                                           splat(group_.reference[i + r]), y, sums);
      exponentials[r] = sums.exponentials.lanes;
      if constexpr (kTerms != Terms::kIndices) linear[r] = sums.linear.lanes;
      if constexpr (kTerms == Terms::kProbabilities) mass[r] = sums.mass.lanes;
    }
    const auto add_up = [i](const Vec<double>* v, double* out) {
      constexpr auto kAdd = [](auto a, auto b) { return a + b; };
      for (int r = 0; r < kW; r += kLanes<double>)
        store(out + i + r, fold_each<double>(v + r, kAdd));
    };
    add_up(exponentials, group_.sum);
    if constexpr (kTerms != Terms::kIndices) add_up(linear, group_.linear);
    if constexpr (kTerms == Terms::kProbabilities) add_up(mass, group_.mass);
    for (int r = i; kIndices && r < i + n; ++r) {
      if (group_.pivot[r] < 0) {
        blank(r);
      } else if (!in_range<kTerms>(r)) {
        sum_row_relative_to<kTerms>(row(first + r), first + r, r,
                                    largest(row(first + r), p_.classes));
      }
    }
  }

  // The largest of the first `some` logits of each row.
  V largest_of_batch(int64_t first, int n, int64_t some) {
    V lanes[kW] = {};
    for (int r = 0; r < n; ++r) lanes[r] = largest_lanes(row(first + r), some);
    return fold_each<A>(lanes, [](auto a, auto b) { return larger(a, b); });
  }

  // Adds a block to a row's sums. kHasPivot: class `y` of it is the pivot, whose own
  // exponential stays out of the sum.
  template <Terms kTerms, bool kHasPivot, int kCache>
  FUSED_CE_INLINE void sum_block(const S* x, const A* w, const A* t, int n, const Reference<S>& ref,
                                 V m, int y, RowSums<A>& total) {
    const A* limits = limits_ + kBlock - y;
    const auto kept = [&](V logits, int j) __attribute__((always_inline)) {
      return kHasPivot ? at_most<A>(logits, load(limits + j)) : logits;
    };
    const auto add_pair = [&](Sums<Pair<V>>& sums, int j) __attribute__((always_inline)) {
      const Pair<V> logits = {load(x + j), load(x + j + kW)};
      sums.template add<kTerms>(
          ref, m, logits, {kept(logits.a, j), kept(logits.b, j + kW)},
          {weights<kTerms>(mixing_, w, t, j), weights<kTerms>(mixing_, w, t, j + kW)});
    };
    Sums<Pair<V>> first_half, second_half;
    int j = 0;
    while (j + kUnroll * kW <= n) {
      first_half = second_half = {};
      const int end = smaller(n, j + kLaneTerms<S> * kUnroll * kW);
      for (; j + kUnroll * kW <= end; j += kUnroll * kW) {
#pragma GCC unroll 4
        for (int u = 0; u < kUnroll; ++u) {
          prefetch<kCache>(x + j, u * kW);
          if constexpr (kTerms == Terms::kProbabilities) prefetch<kCache>(t + j, u * kW);
        }
        add_pair(first_half, j);
        add_pair(second_half, j + 2 * kW);
      }
      total.template add<kTerms>(folded(first_half + second_half));
    }
    static_assert(kUnroll == 4);
    first_half = {};
    Sums<V> rest;
    if (j + 2 * kW <= n) add_pair(first_half, j), j += 2 * kW;
    if (j + kW <= n) {
      const V logits = load(x + j);
      rest.template add<kTerms>(ref, m, logits, kept(logits, j), weights<kTerms>(mixing_, w, t, j));
      j += kW;
    }
    if (j < n) {
      // The last whole vector of the block, less the lanes that are in the sums already; or, in a
      // row shorter than a vector, what there is. The weight of other lanes is 0.
      const int first = n >= kW ? n - kW : 0;
      const Vec<Int<A>> lane = iota<Int<A>>() + static_cast<Int<A>>(first);
      const Vec<Int<A>> present =
          (lane >= static_cast<Int<A>>(j)) & (lane < static_cast<Int<A>>(n));
      // What is in the sums already is replaced, not only weighted by 0: it may be infinite.
      const V logits = n >= kW ? (present ? load(x + first) : m) : load_partial(x, n, m[0]);
      const V q = n >= kW ? weights<kTerms>(mixing_, w, t, first)
                          : weights_partial<kTerms>(mixing_, w, t, n);
      rest.template add<kTerms>(ref, m, logits, present ? kept(logits, first) : splat(kNone),
                                present ? q : V{});
    }
    total.template add<kTerms>(folded(first_half) + rest);
  }

  Group<A, kRowGroup> group_;
  alignas(64) double loss_[kRowGroup];
  // What a logit may be at most: limits_[kBlock - y + j] is -inf where j is the pivot y,
  // and else infinity. One minimum instead of a comparison and a selection.
  alignas(64) A limits_[2 * kBlock];
};

}  // namespace fused_ce::cpu::FUSED_CE_ISA
