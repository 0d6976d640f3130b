// Planes: logits whose neighbours in memory are rows ((N,C,d1..) and transposed matrices), read in
// place. The lanes of a vector are rows, and the loop runs over the classes.
#pragma once

#include "results.h"
#include "targets.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

// Rows a tile: enough that each plane is read in long runs.
inline constexpr int kPlaneTile = 512;
// Classes taken together: their vectors share the loads of the rows' state, and float lanes never
// add up more of them before they go into double. Few, since planes often lie a power of two apart,
// where the caches hold no more than eight lines.
inline constexpr int kPlanes = 4;
// How far a target's logit may be above a guessed reference: its exponential fits into double.
inline constexpr double kFarTarget = 256;
// Indices: classes whose largest logit is the first guess of a row's reference. The exponentials of
// half types are the better for a guess near the largest, and so is a linear sum.
inline constexpr int64_t kProbedPlanes = 8;
template <class S, Terms kTerms>
inline constexpr int64_t kGuessedFrom =
    sizeof(S) == sizeof(Accumulate<S>) && !kHasLinear<kTerms> ? kPlanes : kProbedPlanes;

template <class S, Terms kTerms>
class Planes {
  using A = Accumulate<S>;
  using V = Vec<A>;
  using I = Vec<Int<A>>;
  static constexpr bool kIndices = Objective<S, kTerms>::kIndices;
  static constexpr int kW = kLanes<A>;
  static constexpr A kNone = -static_cast<A>(__builtin_inf());  // its exponential is 0

 public:
  explicit Planes(const Problem& problem) : p_(problem), objective_(problem) {}

  // rows [first, first + n) of one tile
  void forward(const Forward& out, int64_t first, int n, TaskSums& sums) {
    sums.note(open(first, n));
    // The first guess is found on the way.
    const bool guess = kIndices && p_.classes > kPlanes;
    if (!guess) find_references();
    sum(guess);
    if (kIndices && p_.classes > kGuessedFrom<S, kTerms> && !all_in_range()) {
      find_references();
      sum(/*guess=*/false);
    }
    put_rows(p_, objective_, rows_, first, n, out, loss_, sums);
  }

  void backward(const Backward& back, int64_t first, int n, bool streamed) {
    open(first, n);
    read_saved(back, first, n, padded(n), rows_, grad_);
    objective_.differentiate(rows_, padded(n), grad_, factors_);
    write(back, streamed);
  }

 private:
  static int padded(int n) { return (n + kW - 1) / kW * kW; }

  // Reads the targets and finds the logits. Lanes past the end repeat the last row, have no target
  // and are never stored. Returns the first bad row.
  int64_t open(int64_t first, int n) {
    first_ = first;
    n_ = n;
    base_ = row_offset(p_, p_.logits_strides, first);
    if constexpr (!kIndices) return kNoBadRow;
    return read_targets(p_, first, n, padded(n), rows_);
  }

  V logits(int64_t c, int i) const {
    const S* x = logits_at(c) + i;
    return i + kW <= n_ ? objective_.logits(x) : objective_.logits(x, n_ - i, A(0));
  }

  const S* logits_at(int64_t c) const {
    return static_cast<const S*>(p_.logits) + base_ + c * p_.logits_strides.classes;
  }

  // The references: the largest of each row's logits; beside probabilities its class is the pivot.
  void find_references() {
    for (int64_t first = 0; first < p_.classes; first += kPlanes) {
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
    for (int i = 0; i < n_; i += kW)
      references_[i / kW] = Reference<S>(Offset<A>::template of<S>(load(rows_.reference + i)));
  }

  bool all_in_range() const {
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

  // What the logits of class c weigh in the linear sums of rows i, i + 1, ..
  FUSED_CE_INLINE V weights(int64_t c, int i, const A* target) const {
    return objective_.weight_of(c, kHasMass<kTerms> ? load(target + i) : V{});
  }

  // The tile's probabilities of one class, of which whole vectors can be read. A tile's rows have
  // one outer index.
  const A* probabilities(int64_t c, A* buffer) {
    const Strides& s = p_.target_strides;
    const A* p = gather<A>(p_.target, p_.target_dtype, row_offset(p_, s, first_) + c * s.classes,
                           s.inner, n_, buffer);
    if (n_ % kW == 0 || p == buffer) return p;
    __builtin_memcpy(buffer, p, static_cast<size_t>(n_) * sizeof(A));
    return buffer;
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
    for (int i = 0; i < n_; i += kW) rows_.settle_lanes(i);
    // A NaN of an ignored row must not send the tile to the slow path.
    for (int first = 0; kIndices && first < n_; first += kW) {
      if (all_lanes(load(rows_.pivot + first) >= 0)) continue;
      for (int i = first; i < first + kW; ++i) {
        if (!rows_.counts(i)) rows_.reference[i] = 0, rows_.sum[i] = 1;
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
    const bool fresh = first == 0;
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
        ref = Reference<S>(Offset<A>::template of<S>(m));
        store(rows_.reference + i, m);
        references_[i / kW] = ref;
      } else {
        m = load(rows_.reference + i);
        ref = references_[i / kW];
      }
      V pivot_logit = fresh ? V{} : load(rows_.pivot_logit + i);
      const I pivot = load(rows_.pivot + i) - static_cast<Int<A>>(first);
      const auto load_class = [&](int k, I& is_pivot) __attribute__((always_inline)) {
        const V logits = load_logits(x[k] + i);
        is_pivot = pivot == static_cast<Int<A>>(k);
        pivot_logit = put_in(pivot_logit, is_pivot, logits);
        return logits;
      };
      Sums<Pair<V>, kTerms> halves;  // a sum of two sums is rounded less often than a chain
      Sums<V, kTerms> rest;
#pragma GCC unroll 2
      for (int k = 0; k + 2 <= kPlanes; k += 2) {
        if (!kAll && k + 2 > planes) break;
        Pair<I> is_pivot;
        const Pair<V> logits = {load_class(k, is_pivot.a), load_class(k + 1, is_pivot.b)};
        const Pair<V> q = {weights(first + k, i, t[k]), weights(first + k + 1, i, t[k + 1])};
        objective_.add_term_except(halves, ref, m, logits, is_pivot, q);
      }
      if (!kAll && planes % 2 == 1) {
        I is_pivot;
        const int k = planes - 1;
        const V logits = load_class(k, is_pivot);
        objective_.add_term_except(rest, ref, m, logits, is_pivot, weights(first + k, i, t[k]));
      }
      store(rows_.pivot_logit + i, pivot_logit);
      rows_.add_lanes(i, kAll ? folded(halves) : folded(halves) + rest, fresh);
    };
    int i = 0;
    for (; i + kW <= n_; i += kW) add(i, [&](const S* p) { return objective_.logits(p); });
    if (i < n_) add(i, [&](const S* p) { return objective_.logits(p, n_ - i, A(0)); });
  }

  // The planes to be read after those that begin with class `first`: of the next tile at the end.
  const S* logits_after(int64_t first) const {
    return first + kPlanes < p_.classes ? logits_at(first + kPlanes) : logits_at(0) + kPlaneTile;
  }
  // Once a cache line. Runs of a tile's length end before the processor's own prefetching has
  // begun.
  FUSED_CE_INLINE void prefetch(const S* planes, int i) const {
    if (i % (64 / static_cast<int>(sizeof(S))) != 0) return;
#pragma GCC unroll 4
    for (int k = 0; k < kPlanes; ++k)
      __builtin_prefetch(planes + k * p_.logits_strides.classes + i, 0, 2);
  }

  // The same for probabilities, of any type.
  const char* probabilities_after(int64_t first) const {
    const Strides& s = p_.target_strides;
    const int64_t c = first + kPlanes;
    const int64_t offset =
        row_offset(p_, s, first_) + (c < p_.classes ? c * s.classes : kPlaneTile * s.inner);
    return static_cast<const char*>(p_.target) + offset * size_of(p_.target_dtype);
  }
  FUSED_CE_INLINE void prefetch_probabilities(const char* planes, int i) const {
    const int64_t size = size_of(p_.target_dtype);
    if (i * size % 64 != 0) return;
#pragma GCC unroll 4
    for (int k = 0; k < kPlanes; ++k)
      __builtin_prefetch(planes + (k * p_.target_strides.classes + i) * size, 0, 2);
  }

  void write(const Backward& back, bool streamed) {
    for (int i = 0; i < n_; i += kW) factor_[i / kW] = factors_.of_lanes(i);
    for (int64_t first = 0; first < p_.classes; first += kPlanes) {
      const int64_t left = p_.classes - first;
      if (left >= kPlanes) {
        write_planes<true>(back, first, kPlanes, streamed);
      } else {
        write_planes<false>(back, first, static_cast<int>(left), streamed);
      }
    }
  }

  template <bool kAll>
  void write_planes(const Backward& back, int64_t first, int planes, bool streamed) {
    S* grad = static_cast<S*>(back.grad_logits) + row_offset(p_, back.grad_strides, first_) +
              first * back.grad_strides.classes;
    const A* t[kPlanes] = {};
    const S* x[kPlanes];
    // Half types are converted in a loop of their own, as in row_gradients.h, and planes are
    // streamed one by one: lines of several at once leave the processor half filled.
    const bool direct = sizeof(S) == sizeof(A) && !streamed;
    A* g[kPlanes];
    for (int k = 0; k < planes; ++k) {
      x[k] = logits_at(first + k);
      g[k] = direct ? reinterpret_cast<A*>(grad + k * back.grad_strides.classes) : gradient_[k];
      if constexpr (!kIndices) t[k] = probabilities(first + k, targets_[k]);
    }
    const S* next = logits_after(first);
    const bool some_lead = !kIndices && factors_.some_lead;
    const auto gradients = [&](int i, auto load_logits, auto put) __attribute__((always_inline)) {
      prefetch(next, i);
      const Factor<S> factor = factor_[i / kW];
      const I y = !kIndices ? I{} : load(rows_.pivot + i) - static_cast<Int<A>>(first);
      PivotFactor<A> pivot;
      if constexpr (!kIndices) pivot = factors_.pivot_of_lanes(i);
      const I counted = !kIndices ? ~I{} : load(rows_.pivot + i) >= 0;
      const auto finish = [&](int k, V v) __attribute__((always_inline)) {
        if constexpr (kIndices) {
          v = y == static_cast<Int<A>>(k) ? load(factors_.at_pivot + i) : v;
          v = bits_as<V>(bits_as<I>(v) & counted);
        }
        put(g[k] + i, v);
      };
      const auto one = [&](int k) __attribute__((always_inline)) {
        const V logits = load_logits(x[k] + i), q = weights(first + k, i, t[k]);
        finish(k, some_lead ? objective_.gradient(factor, pivot, logits, q)
                            : objective_.gradient(factor, logits, q));
      };
      if constexpr (!kIndices) {  // from memory, a pair takes a tenth longer
#pragma GCC unroll 4
        for (int k = 0; k < kPlanes; ++k) {
          if (!kAll && k >= planes) break;
          one(k);
        }
        return;
      }
#pragma GCC unroll 2
      for (int k = 0; k + 2 <= kPlanes; k += 2) {
        if (!kAll && k + 2 > planes) break;
        const Pair<V> logits = {load_logits(x[k] + i), load_logits(x[k + 1] + i)};
        const Pair<V> q = {weights(first + k, i, t[k]), weights(first + k + 1, i, t[k + 1])};
        const Pair<V> v = objective_.gradient(factor, logits, q);
        finish(k, v.a);
        finish(k + 1, v.b);
      }
      if (!kAll && planes % 2 == 1) one(planes - 1);
    };
    int i = 0;
    for (; i + kW <= n_; i += kW) {
      gradients(
          i, [&](const S* p) { return objective_.logits(p); }, [](A* p, V v) { store(p, v); });
    }
    if (i < n_) {
      gradients(
          i, [&](const S* p) { return objective_.logits(p, n_ - i, A(0)); },
          [&](A* p, V v) { store_partial(p, n_ - i, v); });
    }
    for (int k = 0; k < planes && !direct; ++k)
      convert(gradient_[k], grad + k * back.grad_strides.classes, n_, streamed);
  }

  const Problem& p_;
  const Objective<S, kTerms> objective_;
  int64_t first_ = 0, base_ = 0;
  int n_ = 0;
  RowStates<A, kTerms, kPlaneTile> rows_;
  Factors<S, kTerms, kPlaneTile> factors_;
  alignas(64) double grad_[kPlaneTile], loss_[kPlaneTile];
  // A vector of rows': forward's, and backward's.
  Reference<S> references_[kPlaneTile / kW];
  Factor<S> factor_[kPlaneTile / kW];
  alignas(64) A targets_[kPlanes][kPlaneTile];
  alignas(64) A gradient_[kPlanes][kPlaneTile];
};

}  // namespace fused_ce::cpu::FUSED_CE_ISA
