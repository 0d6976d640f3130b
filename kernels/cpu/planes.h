// SPDX-License-Identifier: BSD-3-Clause
// The sums of planes: the loop runs over the classes, a vector of rows at a time.
#pragma once

#include "plane_tile.h"
#include "results.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

// How far a target's logit may be above a guessed reference: its exponential fits into double.
inline constexpr double kFarTarget = 256;
// Indices: classes whose largest logit is the first guess of a row's reference. The exponentials of
// half types are the better for a guess near the largest, and so is a linear sum.
inline constexpr int64_t kProbedPlanes = 8;
template <class S, Terms kTerms>
inline constexpr int64_t kGuessedFrom =
    sizeof(S) == sizeof(Accumulate<S>) && !kHasLinear<kTerms> ? kPlanes : kProbedPlanes;

template <class S, Terms kTerms>
class Planes : PlaneTile<S, kTerms> {
  using Base = PlaneTile<S, kTerms>;
  using Base::kIndices, Base::kW;
  using Base::logits_after, Base::prefetch, Base::probabilities_after, Base::prefetch_probabilities;
  using Base::open, Base::logits, Base::logits_at, Base::weights, Base::probabilities;
  using Base::p_, Base::objective_, Base::n_, Base::rows_, Base::targets_;
  using typename Base::A, typename Base::V, typename Base::I;
  static constexpr A kNone = -static_cast<A>(__builtin_inf());  // its exponential is 0

 public:
  explicit Planes(const Problem& problem) : Base(problem) {}

  // rows [first, first + n) of one tile
  void forward(const Forward& out, int64_t first, int n, TaskSums& sums) {
    sums.note(open(first, n));
    predicts_ = wants_prediction(out);
    all_count_ = predicts_ || out.statistics.confidence;
    wants_gap_ = wants_gap(out);
    summed_ = false;
    // The first guess is found on the way.
    const bool guess = kIndices && p_.classes > kPlanes;
    if (!guess) find_references();
    sum(guess);
    constexpr bool kAnyGuess = kFindsLargest<kTerms>;  // may be too far for digits
    if (kIndices && p_.classes > (kAnyGuess ? kPlanes : kGuessedFrom<S, kTerms>) &&
        !all_in_range()) {
      find_references();
      sum(/*guess=*/false);
    }
    put_rows(p_, objective_, rows_, first, n, out, finished_, sums);
  }

 private:
  // The references: the largest of each row's logits; beside probabilities its class is the pivot.
  void find_references() {
    for (int64_t first = 0; !knows_largest() && first < p_.classes; first += kPlanes) {
      const int planes = static_cast<int>(smaller<int64_t>(p_.classes - first, kPlanes));
      const S* next = logits_after(first);
      for (int i = 0; i < n_; i += kW) {
        prefetch(next, i);
        V m = first == 0 ? splat(kNone) : load(rows_.reference + i);
        I pivot = first == 0 || kIndices ? I{} : load(rows_.pivot + i);
        for (int k = 0; k < planes; ++k) {
          const V x = logits(first + k, i);
          if constexpr (!kIndices) pivot = x > m ? I{} + static_cast<Int<A>>(first + k) : pivot;
          m = larger(m, x);
        }
        store(rows_.reference + i, m);
        if constexpr (!kIndices) store(rows_.pivot + i, pivot);
      }
    }
    for (int i = 0; kIsRanked<kTerms> && i < n_; i += kW) {
      if (!knows_largest()) {
        store(rows_.largest + i, load(rows_.reference + i));
        if constexpr (kHasMass<kTerms>) store(rows_.prediction + i, load(rows_.pivot + i));
      }
      const V m = load(rows_.largest + i);
      store(rows_.reference + i, objective_.above_infinity(m));
    }
    for (int i = 0; i < n_; i += kW)
      references_[i / kW] = objective_.reference(load(rows_.reference + i));
  }

  // Whether the largest of each row's logits was found with its sums.
  bool knows_largest() const { return kFindsLargest<kTerms> && summed_; }

  bool all_in_range() const {
    if constexpr (kFindsLargest<kTerms>) return objective_.are_near(rows_, 0, n_, wants_gap_);
    const double limit = largest_sum<S>(kHasLinear<kTerms>, p_.classes);
    I usable = ~I{};
    for (int i = 0; i < n_; i += kW) {
      const V m = load(rows_.reference + i);
      // The target's own exponential is not in the sum.
      usable &= (m != kNone) & (load(rows_.pivot_logit + i) - m < static_cast<A>(kFarTarget));
    }
    Vec<int64_t> in_range = ~Vec<int64_t>{};
    for (int i = 0; i < n_; i += kLanes<double>) {
      const Vec<double> sum = lanes(rows_.sum, i);
      in_range &= (sum >= 0.0) & (sum < limit);
    }
    return all_lanes(usable) && all_lanes(in_range);
  }

  // Finds the rows' sums and the pivots' logits.
  void sum(bool guess) {
    for (int64_t first = 0; first < p_.classes; first += kPlanes) {
      const int64_t left = p_.classes - first;
      if (left >= kPlanes) {
        sum_planes<true>(first, kPlanes, guess && first == 0);
      } else {
        sum_planes<false>(first, static_cast<int>(left), /*guess=*/false);
      }
    }
    for (int i = 0; i < n_; i += kW) rows_.settle_lanes(i, objective_.has_linear(), wants_gap_);
    summed_ = true;
    if (kFindsLargest<kTerms> && all_count_) return;
    // A NaN of an ignored row must not send the tile to the slow path.
    for (int first = 0; kIndices && first < n_; first += kW) {
      if (all_lanes(load(rows_.pivot + first) >= Int<A>{kElsewhere})) continue;
      for (int i = first; i < first + kW; ++i) {
        if (!rows_.counts(i)) rows_.blank(i);
      }
    }
  }

  // kAll: `planes` is kPlanes, and the loops over it are unrolled.
  template <bool kAll>
  void sum_planes(int64_t first, int planes, bool guess) {
    const A* t[kPlanes] = {};
    const S* x[kPlanes];
    for (int k = 0; k < planes; ++k) {
      x[k] = logits_at(first + k);
      if constexpr (!kIndices) t[k] = probabilities(first + k, targets_[k]);
    }
    const bool fresh = first == 0, predicts = predicts_, gaps = wants_gap_;
    // The guess looks at planes after these as well, which should have been fetched a while ago.
    constexpr bool kLooksAhead = kGuessedFrom<S, kTerms> > kPlanes;
    const int ahead =
        kLooksAhead ? static_cast<int>(smaller(p_.classes, kProbedPlanes)) - kPlanes : 0;
    const S* next = logits_after(first) + (kLooksAhead && guess ? kPlaneTile / 4 : 0);
    const char* next_t = !kIndices ? probabilities_after(first) : nullptr;
    const auto add = [&](int i, auto load_logits) __attribute__((always_inline)) {
      prefetch(next, i);
      if constexpr (!kIndices) prefetch_probabilities(next_t, i);
      V m;
      Reference<S> ref;
      if (kIndices && kAll && guess) {
        m = splat(kNone);
#pragma GCC unroll 4
        for (int k = 0; k < kPlanes; ++k) m = larger(m, load_logits(x[k] + i));
        for (int k = 0; k < ahead; ++k)
          m = larger(m, load_logits(x[0] + (kPlanes + k) * p_.logits_strides.classes + i));
        if constexpr (kIsRanked<kTerms>) m = objective_.above_infinity(m);
        ref = objective_.reference(m);
        store(rows_.reference + i, m);
        references_[i / kW] = ref;
      } else {
        m = load(rows_.reference + i);
        ref = references_[i / kW];
      }
      const auto from = objective_.origin(ref, m, gaps);
      V pivot_logit = fresh ? V{} : load(rows_.pivot_logit + i);
      V largest{};
      I prediction{};
      if constexpr (kFindsLargest<kTerms>) {
        largest = fresh ? splat(kNone) : load(rows_.largest + i);
        if (predicts && !fresh) prediction = load(rows_.prediction + i);
      }
      const I pivot = load(rows_.pivot + i) - static_cast<Int<A>>(first);
      const auto load_class = [&](int k, I& is_pivot) __attribute__((always_inline)) {
        const V logits = load_logits(x[k] + i);
        is_pivot = pivot == static_cast<Int<A>>(k);
        pivot_logit = put_in(pivot_logit, is_pivot, logits);
        return logits;
      };
      // What class k's logits let into the sums: the smaller of each and the largest yet.
      const auto entering = [&](int k, V logits) __attribute__((always_inline)) {
        if (predicts)
          prediction = logits > largest ? I{} + static_cast<Int<A>>(first + k) : prediction;
        return Objective<S, kTerms>::entering(logits, largest);
      };
      const auto add_some = [&](auto& some, int k, auto logits, auto is_pivot,
                                auto q) __attribute__((always_inline)) {
        if constexpr (!kFindsLargest<kTerms>) {
          this->objective_.add_term_except(some, from, logits, is_pivot, q);
        } else if constexpr (kIsPair<decltype(logits)>) {
          const Pair<V> enters = {entering(k, logits.a), entering(k + 1, logits.b)};
          this->objective_.add_term(some, from, logits, enters, q);
        } else {
          this->objective_.add_term(some, from, logits, entering(k, logits), q);
        }
      };
      Sums<Pair<V>, kTerms> halves;  // a sum of two sums is rounded less often than a chain
      Sums<V, kTerms> rest;
#pragma GCC unroll 2
      for (int k = 0; k + 2 <= kPlanes; k += 2) {
        if (!kAll && k + 2 > planes) break;
        Pair<I> is_pivot;
        const Pair<V> logits = {load_class(k, is_pivot.a), load_class(k + 1, is_pivot.b)};
        Pair<V> q{};
        if constexpr (kAddsLinear<kTerms>)
          q = {weights(first + k, i, t[k]), weights(first + k + 1, i, t[k + 1])};
        add_some(halves, k, logits, is_pivot, q);
      }
      if (!kAll && planes % 2 == 1) {
        I is_pivot;
        const int k = planes - 1;
        const V logits = load_class(k, is_pivot);
        V q{};
        if constexpr (kAddsLinear<kTerms>) q = weights(first + k, i, t[k]);
        add_some(rest, k, logits, is_pivot, q);
      }
      store(rows_.pivot_logit + i, pivot_logit);
      if constexpr (kFindsLargest<kTerms>) {
        store(rows_.largest + i, largest);
        if (predicts) store(rows_.prediction + i, prediction);
      }
      rows_.add_lanes(i, kAll ? folded(halves) : folded(halves) + rest, fresh, gaps);
      if constexpr (kFindsLargest<kTerms>) {
        if (!objective_.has_linear()) return;
        Sums<V, kTerms> linear;
        for (int k = 0; k < planes; ++k)
          objective_.add_linear(linear, m, load_logits(x[k] + i), weights(first + k, i, nullptr));
        rows_.add_linear_lanes(i, linear.linear, fresh);
      }
    };
    int i = 0;
    for (; i + kW <= n_; i += kW) add(i, [&](const S* p) { return objective_.logits(p); });
    if (i < n_) add(i, [&](const S* p) { return objective_.logits(p, n_ - i, A(0)); });
  }

  bool predicts_ = false;   // whether predictions are asked for
  bool all_count_ = false;  // whether there is something to be found of rows that do not count
  bool wants_gap_ = false;
  bool summed_ = false;
  Reference<S> references_[kPlaneTile / kW];  // of a vector of rows each
  Finished<kPlaneTile> finished_;
};

}  // namespace fused_ce::cpu::FUSED_CE_ISA
