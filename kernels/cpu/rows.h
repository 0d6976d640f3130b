// SPDX-License-Identifier: BSD-3-Clause
// The sums of rows of many classes: long rows one by one, short rows in batches. The logits are
// read once, and beside probabilities before, for the largest and its class.
#pragma once

#include "blocks.h"
#include "results.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

// Indices: the first guess of a row's reference is the largest of so many logits.
inline constexpr int kProbe = 128;

template <class S, Terms kTerms>
class Rows : Blocks<S, kTerms> {
  using Base = Blocks<S, kTerms>;
  using Base::block, Base::block_size, Base::probabilities;
  using Base::first_of, Base::largest, Base::largest_lanes;
  using Base::kBlock, Base::kNone, Base::kW;
  using Base::p_, Base::objective_, Base::row;
  using typename Base::A, typename Base::V;
  using I = Vec<Int<A>>;
  using Origin = typename Objective<S, kTerms>::Origin;
  static constexpr bool kIndices = Objective<S, kTerms>::kIndices;

 public:
  explicit Rows(const Problem& problem) : Base(problem) {
    for (A& limit : limits_) limit = -kNone;
    limits_[kBlock] = kNone;
  }

  Partial forward(const Forward& out, int64_t begin, int64_t end) {
    TaskSums sums;
    predicts_ = wants_prediction(out);
    all_count_ = predicts_ || out.statistics.confidence;
    wants_gap_ = wants_gap(out);
    for (int64_t first = begin; first < end; first += kRowTile) {
      const int n = static_cast<int>(end - first < kRowTile ? end - first : kRowTile);
      sums.note(open(first, n));
      if (p_.classes <= kBlock) {
        for (int i = 0; i < n; i += kW) sum_batch(first, i, n - i < kW ? n - i : kW);
      } else {
        for (int i = 0; i < n; ++i) {
          if (kIndices && !is_summed(i)) {
            rows_.blank(i);
          } else {
            sum_row(first + i, i);
          }
        }
      }
      put_rows(p_, objective_, rows_, first, n, out, finished_, sums);
    }
    return sums.partial();
  }

 private:
  // Reads the targets of rows [first, first + n) and their logits. Returns the first bad row.
  // Lanes past the last row are computed with: they get harmless values.
  int64_t open(int64_t first, int n) {
    const int padded = (n + kW - 1) / kW * kW;
    for (int i = n; i < padded; ++i) rows_.blank(i);
    if constexpr (!kIndices) return kNoBadRow;
    const int64_t bad = read_targets(p_, first, n, padded, rows_);
    for (int i = 0; i < padded; ++i) {
      const int64_t step = rows_.pivot[i] * p_.logits_strides.classes;
      rows_.pivot_logit[i] = rows_.has_pivot(i) ? objective_.logit(row(first + i) + step) : A(0);
    }
    return bad;
  }

  // Rows that do not count have a prediction.
  bool is_summed(int i) const {
    if (kFindsLargest<kTerms> && all_count_) return true;
    return rows_.counts(i);
  }

  // The first guess of a row's reference. The sum of exponentials has headroom enough for any guess
  // that is near the row's logits, as the target's is in all but the worst predictions; the linear
  // sum would lose digits with one far from the largest.
  A guess(const S* x, int i) {
    if (!kLooksAhead && rows_.pivot_logit[i] > kNone) return rows_.pivot_logit[i];
    const A probed = largest(x, p_.classes < kProbe ? p_.classes : kProbe);
    const A m = rows_.has_pivot(i) ? larger(probed, rows_.pivot_logit[i]) : probed;
    return m == kNone ? largest(x, p_.classes) : m;
  }
  // Statistics would as well.
  static constexpr bool kLooksAhead = kHasLinear<kTerms> || kFindsLargest<kTerms>;

  void sum_row(int64_t row, int i) {
    const S* x = this->row(row);
    if constexpr (!kIndices) {
      rows_.pivot_logit[i] = largest(x, p_.classes);
      rows_.pivot[i] = first_of(x, rows_.pivot_logit[i]);
      return sum_row_relative_to(x, row, i, rows_.pivot_logit[i]);
    }
    sum_row_relative_to(x, row, i, guess(x, i));
    if (!in_range(i)) sum_row_relative_to(x, row, i, largest_of(x, i));
  }

  bool in_range(int i) const {
    if constexpr (kFindsLargest<kTerms>) {
      return objective_.are_near(rows_, i, i + 1, wants_gap_);
    } else {
      return rows_.sum[i] >= 0 && rows_.sum[i] < largest_sum<S>(kHasLinear<kTerms>, p_.classes);
    }
  }

  void sum_row_relative_to(const S* row_start, int64_t row, int i, A m) {
    if constexpr (kIsRanked<kTerms>) m = objective_.above_infinity(splat(m))[0];
    const Reference<S> ref = objective_.reference(splat(m));
    const Origin from = objective_.origin(ref, splat(m), wants_gap_);
    const RowSums<A, kTerms> total = sums_of(row_start, row, i, from);
    rows_.reference[i] = m;
    rows_.put(i, total);
  }

  FUSED_CE_INLINE RowSums<A, kTerms> sums_of(const S* row_start, int64_t row, int i,
                                             const Origin& from) {
    const int64_t y = kFindsLargest<kTerms> ? int64_t{kIgnored} : rows_.pivot[i];
    RowSums<A, kTerms> total;
    Lead lead;
    for (int64_t b = 0; b < p_.classes; b += kBlock) {
      const int n = block_size(p_.classes - b);
      const S* x = block(row_start, b, n);
      const A* t = probabilities(row, b, n);
      if (y >= b && y < b + n) {
        sum_block<true, kSecondCache>(x, b, t, n, from, static_cast<int>(y - b), total, lead);
      } else {
        sum_block<false, kSecondCache>(x, b, t, n, from, 0, total, lead);
      }
      if constexpr (kFindsLargest<kTerms>) {
        if (objective_.has_linear()) add_linear(x, b, n, from.m, total);
      }
    }
    close(row_start, i, from, lead, total);
    return total;
  }

  // The largest logits yet, which are not in the sums: each lane's, and the first class of the run
  // in which that lay.
  struct Lead {
    V largest = splat(kNone);
    I run{};

    FUSED_CE_INLINE void end_run(V before, int64_t first) {
      run = largest > before ? I{} + static_cast<Int<A>>(first) : run;
    }
    // Minus the number of lanes that lead, once folded.
    FUSED_CE_INLINE I leading(A leader) const { return largest == leader; }
    // The first class of the first run in which one did.
    FUSED_CE_INLINE I leading_run(A leader) const { return largest == leader ? run : I{} + kNever; }
    // All lanes' but one that leads; `count`: what `leading` folds to. (No selection between the
    // two: gcc 12 fails at it for SSE2.)
    FUSED_CE_INLINE V others(A leader, Int<A> count) const {
      V v = largest == leader ? splat(kNone) : largest;
      if (count != -1) v = others_of_a_tie(leader);
      return v;
    }

   private:
    FUSED_CE_OUT_OF_LINE V others_of_a_tie(A leader) const {
      V v = largest;
      int one = 0;
      while (v[one] != leader) ++one;
      v[one] = kNone;
      return v;
    }
  };
  static constexpr Int<A> kNever = ~kSignBit<A>;
  static FUSED_CE_INLINE Int<A> first_of_lanes(I v) {
    return fold_lanes<Int<A>>(v, [](auto a, auto b) { return a < b ? a : b; });
  }
  // Of kW vectors, one a lane. (SSE2 cannot compare integers of 64 bits, and gcc 12 fails at it.)
  static FUSED_CE_INLINE I first_of_each(const I (&v)[kW]) {
    if constexpr (kVectorBytes > 16)
      return fold_each<Int<A>>(v, [](auto a, auto b) { return a < b ? a : b; });
    I first;
    for (int r = 0; r < kW; ++r) first[r] = first_of_lanes(v[r]);
    return first;
  }

  // Puts what all but one of a row's lanes have set aside into its sums, and the one's into its
  // state.
  FUSED_CE_INLINE void close(const S* row_start, int i, const Origin& from, const Lead& lead,
                             RowSums<A, kTerms>& total) {
    if constexpr (kFindsLargest<kTerms>) {
      const A largest = max_lane<A>(lead.largest);
      const Int<A> count =
          fold_lanes<Int<A>>(lead.leading(largest), [](auto a, auto b) { return a + b; });
      total.add_exponentials(objective_.exponential(from, lead.others(largest, count)));
      rows_.largest[i] = largest;
      if (!predicts_) return;
      rows_.prediction[i] = first_of_lanes(lead.leading_run(largest));
      rows_.prediction[i] += first_of_lanes(leading_in_run(row_start, i));
    } else if constexpr (kIsRanked<kTerms>) {
      rows_.largest[i] = rows_.pivot_logit[i];
      rows_.prediction[i] = static_cast<Int<A>>(rows_.pivot[i]);
    }
  }

  // The same of a vector of rows, whose lanes are folded together.
  FUSED_CE_INLINE void close_batch(int64_t first, int i, int n, const Reference<S> (&refs)[kW],
                                   const Lead (&leads)[kW], RowSums<A, kTerms> (&totals)[kW]) {
    V largest[kW];
    I leading[kW];
    for (int r = 0; r < kW; ++r) largest[r] = leads[r].largest;
    const V leader = fold_each<A>(largest, [](auto a, auto b) { return larger(a, b); });
    store(rows_.largest + i, leader);
    for (int r = 0; r < kW; ++r) leading[r] = leads[r].leading(rows_.largest[i + r]);
    const I counts = fold_each<Int<A>>(leading, [](auto a, auto b) { return a + b; });
    for (int r = 0; r < n; ++r) {
      const V others = leads[r].others(rows_.largest[i + r], counts[r]);
      const Origin from = objective_.origin(refs[r], splat(rows_.reference[i + r]), wants_gap_);
      totals[r].add_exponentials(objective_.exponential(from, others));
    }
    if (!predicts_) return;
    for (int r = 0; r < n; ++r) leading[r] = leads[r].leading_run(rows_.largest[i + r]);
    const I run = first_of_each(leading);
    store(rows_.prediction + i, run);
    for (int r = 0; r < n; ++r) leading[r] = leading_in_run(row(first + i + r), i + r);
    store(rows_.prediction + i, run + first_of_each(leading));
  }

  // Of the run of which a row's prediction is the first class: of each lane, how far in it the
  // largest logit lies, or kNever. Found without a branch that depends on where that is.
  FUSED_CE_INLINE I leading_in_run(const S* row_start, int i) {
    constexpr A kNan = static_cast<A>(__builtin_nanf(""));
    const Int<A> run = rows_.prediction[i];
    const int n = static_cast<int>(smaller<int64_t>(p_.classes - run, kUnroll * kW));
    const S* x = block(row_start, run, n);
    I at = I{} + kNever;
    for (int j = (n - 1) / kW * kW; j >= 0; j -= kW) {
      const V v = n - j >= kW ? objective_.logits(x + j) : objective_.logits(x + j, n - j, kNan);
      at = v == rows_.largest[i] ? iota<Int<A>>() + static_cast<Int<A>>(j) : at;
    }
    return at;
  }

  // A vector's worth of short rows. Their references are found together before, and their lanes
  // added up together after: a row that did it all by itself would be one long chain of
  // dependent instructions, and keep the next rows waiting.
  void sum_batch(int64_t first, int i, int n) {
    V m = load(rows_.pivot_logit + i);
    if constexpr (kIndices && kLooksAhead) {
      const V probed = largest_of_batch(first + i, n, smaller<int64_t>(p_.classes, kProbe));
      m = load(rows_.pivot + i) >= 0 ? larger(m, probed) : probed;
      if constexpr (kFindsLargest<kTerms>) m = objective_.above_infinity(m);
    }
    if constexpr (!kIndices) {
      m = largest_of_batch(first + i, n, p_.classes);
      store(rows_.pivot_logit + i, m);
      for (int r = i; r < i + n; ++r)
        rows_.pivot[r] = first_of(row(first + r), rows_.pivot_logit[r]);
    }
    store(rows_.reference + i, m);
    const Offset<A> offset = objective_.offset(m);
    const bool shifted = !all_lanes(offset.shift == A(0));
    alignas(64) A shift[kW], c[kW];
    store(shift, offset.shift);
    store(c, offset.c);
    RowSums<A, kTerms> sums[kW];
    Reference<S> refs[kW];
    Lead leads[kW];
    for (int r = 0; r < n; ++r) {
      refs[r] = objective_.reference(shift[r], c[r], shifted);
      if (kIndices && !is_summed(i + r)) continue;
      const int n_classes = static_cast<int>(p_.classes);
      const int64_t at = first + i + r;
      if constexpr (kIndices && kLooksAhead) fetch_probe(at + kW);
      const Origin from = objective_.origin(refs[r], splat(rows_.reference[i + r]), wants_gap_);
      const int y = static_cast<int>(rows_.pivot[i + r]);
      const S* x = block(row(at), 0, n_classes);
      sum_block<!kFindsLargest<kTerms>, kFirstCache>(x, 0, probabilities(at, 0, n_classes),
                                                     n_classes, from, y, sums[r], leads[r]);
      if constexpr (kFindsLargest<kTerms>) {
        if (objective_.has_linear()) add_linear(x, 0, n_classes, from.m, sums[r]);
      }
    }
    if constexpr (kFindsLargest<kTerms>) {
      close_batch(first, i, n, refs, leads, sums);
    } else if constexpr (kIsRanked<kTerms>) {
      store(rows_.largest + i, m);
      store(rows_.prediction + i, load(rows_.pivot + i));
    }
    rows_.put_batch(i, sums);
    if constexpr (kFindsLargest<kTerms>) {
      if (objective_.are_near(rows_, i, i + n, wants_gap_) && all_are_summed(i, n)) return;
    }
    for (int r = i; kIndices && r < i + n; ++r) {
      if (!is_summed(r)) {
        rows_.blank(r);
      } else if (!in_range(r)) {
        sum_row_relative_to(row(first + r), first + r, r, largest_of(row(first + r), r));
      }
    }
  }
  bool all_are_summed(int i, int n) const {
    for (int r = i; r < i + n; ++r) {
      if (!is_summed(r)) return false;
    }
    return true;
  }
  // The largest logit of a row that was summed.
  A largest_of(const S* row_start, int i) {
    if constexpr (kFindsLargest<kTerms>) return rows_.largest[i];
    return largest(row_start, p_.classes);
  }

  // Fetches what the next batch's guess looks at, of rows too far ahead for all other fetching.
  FUSED_CE_INLINE void fetch_probe(int64_t r) const {
    constexpr int kLine = 64 / static_cast<int>(sizeof(S));
    const S* x = row(r);
    for (int64_t c = 0; c < smaller<int64_t>(p_.classes, kProbe); c += kLine)
      __builtin_prefetch(x + c, 0, 2);
  }

  // The largest of the first `some` logits of each row.
  V largest_of_batch(int64_t first, int n, int64_t some) {
    V lanes[kW] = {};
    for (int r = 0; r < n; ++r) lanes[r] = largest_lanes(row(first + r), some);
    return fold_each<A>(lanes, [](auto a, auto b) { return larger(a, b); });
  }

  // Adds a block to a row's sums. kHasPivot: class `y` of it is the pivot, whose own
  // exponential stays out of the sum.
  template <bool kHasPivot, int kCache>
  FUSED_CE_INLINE void sum_block(const S* x, int64_t b, const A* t, int n, const Origin& from,
                                 int y, RowSums<A, kTerms>& total, Lead& of_row) {
    Lead lead = of_row;  // in registers
    const bool predicts = kFindsLargest<kTerms> && predicts_;
    const A* limits = limits_ + kBlock - y;
    const auto logits = [&](int j)
                            __attribute__((always_inline)) { return objective_.logits(x + j); };
    const auto weights = [&](int j) __attribute__((always_inline)) {
      if constexpr (!kAddsLinear<kTerms>) return V{};
      return objective_.weights(b + j, kHasMass<kTerms> ? t + j : t);
    };
    const auto kept = [&](V v, int j) __attribute__((always_inline)) {
      if constexpr (kFindsLargest<kTerms>) return objective_.entering(v, lead.largest);
      return kHasPivot ? at_most<A>(v, load(limits + j)) : v;
    };
    const auto add_pair = [&](Sums<Pair<V>, kTerms>& sums, int j) __attribute__((always_inline)) {
      const Pair<V> x_pair = {logits(j), logits(j + kW)};
      objective_.add_term(sums, from, x_pair, {kept(x_pair.a, j), kept(x_pair.b, j + kW)},
                          {weights(j), weights(j + kW)});
    };
    Sums<Pair<V>, kTerms> first_half, second_half;
    int j = 0;
    while (j + kUnroll * kW <= n) {
      first_half = second_half = {};
      const int end = smaller(n, j + kLaneTerms<S> * kUnroll * kW);
      for (; j + kUnroll * kW <= end; j += kUnroll * kW) {
#pragma GCC unroll 4
        for (int u = 0; u < kUnroll; ++u) {
          prefetch<kCache>(x + j, u * kW);
          if constexpr (kHasMass<kTerms>) prefetch<kCache>(t + j, u * kW);
        }
        const V before = lead.largest;
        add_pair(first_half, j);
        add_pair(second_half, j + 2 * kW);
        if (predicts) lead.end_run(before, b + j);
      }
      total.add(folded(first_half + second_half));
    }
    static_assert(kUnroll == 4);
    first_half = {};
    const V before = lead.largest;
    const int64_t rest_from = b + j;
    Sums<V, kTerms> rest;
    if (j + 2 * kW <= n) add_pair(first_half, j), j += 2 * kW;
    if (j + kW <= n) {
      const V v = logits(j);
      objective_.add_term(rest, from, v, kept(v, j), weights(j));
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
      const V v = n >= kW ? (present ? logits(first) : from.m) : objective_.logits(x, n, from.m[0]);
      V q{};
      if constexpr (kAddsLinear<kTerms>) q = n >= kW ? weights(first) : objective_.weights(b, t, n);
      const V enters = kFindsLargest<kTerms> ? kept(present ? v : splat(kNone), first)
                                             : (present ? kept(v, first) : splat(kNone));
      objective_.add_term(rest, from, v, enters, present ? q : V{});
    }
    if (predicts) lead.end_run(before, rest_from);
    total.add(folded(first_half) + rest);
    of_row = lead;
  }

  // Adds a block to a row's linear sum, where that is a loop of its own. m: the reference.
  FUSED_CE_OUT_OF_LINE void add_linear(const S* x, int64_t b, int n, V m,
                                       RowSums<A, kTerms>& total) {
    int j = 0;
    while (j < n) {
      Sums<V, kTerms> sums;
      for (const int end = smaller(n, j + kLaneTerms<S> * kW); j < end; j += kW) {
        const bool whole = n - j >= kW;
        const V v = whole ? objective_.logits(x + j) : objective_.logits(x + j, n - j, m[0]);
        objective_.add_linear(
            sums, m, v,
            whole ? objective_.weights(b + j, nullptr) : objective_.weights(b + j, nullptr, n - j));
      }
      total.linear.add(sums.linear);
    }
  }

  bool predicts_ = false;   // whether predictions are asked for
  bool all_count_ = false;  // whether there is something to be found of rows that do not count
  bool wants_gap_ = false;
  RowStates<A, kTerms, kRowTile> rows_;
  Finished<kRowTile> finished_;
  // What a logit may be at most: limits_[kBlock - y + j] is -inf where j is the pivot y,
  // and else infinity. One minimum instead of a comparison and a selection.
  alignas(64) A limits_[2 * kBlock];
};

}  // namespace fused_ce::cpu::FUSED_CE_ISA
