// Tiles: the lanes of a vector are rows, and the loop runs over the classes.
// For logits whose neighbours in memory are rows ((N,C,d1..) planes, transposed matrices), read in
// place, and, forward, for rows of few classes, where vectors along the classes would be mostly
// empty and their sums hard to fold: those are transposed in the cache.
#pragma once

#include "layout.h"
#include "sum.h"
#include "terms.h"
#include "transpose.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

// Rows of at most so many classes are transposed.
inline constexpr int64_t kTransposedClasses = 64;
// Rows a tile: of planes enough that each is read in long runs, of transposed rows few enough that
// they stay in the first cache.
inline constexpr int kPlaneTile = 512;
inline constexpr int kTransposedTile = 128;
// Classes taken together: their vectors share the loads of the rows' state, float lanes never add
// up more of them before they go into double, and their largest is the first guess of the row's
// reference.
inline constexpr int kPlanes = 8;

template <class S>
class Tiles {
  using A = Accumulate<S>;
  using V = Vec<A>;
  using I = Vec<Int<A>>;
  static constexpr int kW = kLanes<A>;

 public:
  Tiles(const Problem& problem, bool transpose)
      : p_(problem),
        smoothing_(problem),
        mixing_(smoothing_),
        weight_(static_cast<const A*>(problem.weight)),
        transpose_(transpose) {}

  // rows [first, first + n) of one tile
  template <Terms kTerms>
  void forward(const Forward& out, int64_t first, int n, TaskSums& sums) {
    constexpr bool kIndices = kTerms != Terms::kProbabilities;
    const int64_t bad = open<kTerms>(first, n);
    if (sums.bad_row < 0) sums.bad_row = bad;
    sum<kTerms>(true);
    if (p_.classes > kPlanes && !all_in_range()) {
      set_reference();
      sum<kTerms>(false);
    }
    finish_forward<S, kIndices>(group_, n, smoothing_, loss_);
    sums.loss.add(loss_, n);
    if (kIndices) sums.weight.add(group_.target_weight, n);
    put_results<A, kIndices>(out, group_, loss_, first, n);
  }

  // Of planes.
  template <Terms kTerms>
  void backward(const Backward& out, int64_t first, int n) {
    constexpr bool kIndices = kTerms != Terms::kProbabilities;
    open<kTerms>(first, n);
    read_saved<A, kIndices>(out, first, n, padded(n), group_, grad_);
    finish_backward<S, kIndices>(group_, padded(n), smoothing_, grad_, factors_);
    write<kTerms>(out);
  }

 private:
  static int padded(int n) { return (n + kW - 1) / kW * kW; }

  // Reads the targets and finds the logits. Lanes past the end repeat the last row, have no target
  // and are never stored. Returns the first bad row.
  template <Terms kTerms>
  int64_t open(int64_t first, int n) {
    first_ = first;
    n_ = n;
    base_ = row_offset(p_, p_.logits_strides, first);
    if (transpose_) transpose_rows();
    if constexpr (kTerms == Terms::kProbabilities) return kNoBadRow;
    return read_targets<A>(p_, first, n, padded(n), group_);
  }

  // The rows' logits, class by class. A square may reach past the end of the last row, so they are
  // copied first where memory ends there.
  void transpose_rows() {
    const int classes = static_cast<int>(p_.classes), rows = padded(n_);
    const S* logits = flat_rows(p_, first_, n_, gathered_);
    const A* flat = flat_;
    const bool inside = (rows_of(p_) - first_) * classes >= rows * classes + kSquare<A>;
    if (sizeof(S) == sizeof(A) && (inside && logits != gathered_)) {
      flat = reinterpret_cast<const A*>(logits);
    } else {
      int i = 0;
      for (; i + kW <= n_ * classes; i += kW) store(flat_ + i, load(logits + i));
      if (i < n_ * classes) store(flat_ + i, load_partial(logits + i, n_ * classes - i, A(0)));
    }
    // The next tile comes from memory while this one is computed.
    for (int i = 0; i < n_ * classes; i += 64 / static_cast<int>(sizeof(S)))
      __builtin_prefetch(logits + n_ * classes + i, 0, 2);
    for (int c = 0; c < classes; c += kSquare<A>) {
      A* out = transposed_ + c * kTransposedTile;
      for (int i = 0; i < rows; i += kW) {
        V square[kSquare<A>];
        load_transposed(flat + i * classes + c, classes, square);
#pragma GCC unroll 4
        for (int k = 0; k < kSquare<A>; ++k) store(out + k * kTransposedTile + i, square[k]);
      }
    }
  }

  V logits(int64_t c, int i) const {
    if (transpose_) return load(transposed_ + c * kTransposedTile + i);
    const S* x = logits_at(c) + i;
    return i + kW <= n_ ? load(x) : load_partial(x, n_ - i, A(0));
  }

  const S* logits_at(int64_t c) const {
    return static_cast<const S*>(p_.logits) + base_ + c * p_.logits_strides.classes;
  }

  // The largest logit of every row.
  void set_reference() {
    for (int i = 0; i < n_; i += kW) {
      V m = logits(0, i);
      for (int64_t c = 1; c < p_.classes; ++c) m = larger(m, logits(c, i));
      store(group_.reference + i, m);
    }
  }

  bool all_in_range() const {
    constexpr A kNone = -static_cast<A>(__builtin_inf());
    bool in_range = true;
    for (int i = 0; i < n_; i += kLanes<double>) {
      const Vec<double> sum = lanes(group_.sum, i);
      in_range &= all_lanes((sum >= 0.0) & (sum < ReferenceConstants<S>::kLargestSum) &
                            (lanes(group_.reference, i) != double{kNone}));
    }
    return in_range;
  }

  template <Terms kTerms>
  V weights(int64_t c, int i, const A* target) const {
    if constexpr (kTerms == Terms::kIndices) return V{};
    const V weight = splat(weight_ ? weight_[c] : A(1));
    if constexpr (kTerms == Terms::kSmoothed) return weight;
    return weight * (load(target + i) * mixing_.keep + mixing_.spread);
  }

  // The tile's probabilities of one class.
  const A* probabilities(int64_t c, A* buffer) {
    const Strides& s = p_.target_strides;
    if (p_.inner > 1 && first_ / p_.inner == (first_ + n_ - 1) / p_.inner) {
      const A* p = gather<A>(p_.target, p_.target_dtype, row_offset(p_, s, first_) + c * s.classes,
                             s.inner, n_, buffer);
      if (n_ % kW == 0 || p == buffer) return p;
      __builtin_memcpy(buffer, p,
                       static_cast<size_t>(n_) * sizeof(A));  // whole vectors are read of it
      return buffer;
    }
    for (int i = 0; i < n_; ++i) {
      const A* value = gather<A>(p_.target, p_.target_dtype,
                                 row_offset(p_, s, first_ + i) + c * s.classes, 1, 1, buffer + i);
      buffer[i] = *value;
    }
    return buffer;
  }

  // Finds the rows' sums and the targets' logits. `guess`: and takes the largest of the first
  // planes for a row's reference.
  template <Terms kTerms>
  void sum(bool guess) {
    for (int64_t first = 0; first < p_.classes; first += kPlanes) {
      const int64_t left = p_.classes - first;
      if (left >= kPlanes) {
        sum_planes<kTerms, true>(first, kPlanes, guess && first == 0);
      } else {
        sum_planes<kTerms, false>(first, static_cast<int>(left), guess && first == 0);
      }
    }
    if constexpr (kTerms != Terms::kProbabilities) {
      // A NaN of an ignored row must not send the tile to the slow path.
      for (int i = 0; i < padded(n_); ++i) {
        if (group_.target[i] < 0) group_.reference[i] = 0, group_.sum[i] = 1;
      }
    }
  }

  // kAll: `planes` is kPlanes, and the loops over it are unrolled.
  template <Terms kTerms, bool kAll>
  void sum_planes(int64_t first, int planes, bool guess) {
    constexpr bool kProbabilities = kTerms == Terms::kProbabilities;
    const A* t[kPlanes] = {};
    if constexpr (kProbabilities) {
      for (int k = 0; k < planes; ++k) t[k] = probabilities(first + k, targets_[k]);
    }
    const bool fresh = first == 0;
    const S* next = transpose_ ? nullptr : next_planes(first);
    for (int i = 0; i < n_; i += kW) {
      V x[kPlanes];
#pragma GCC unroll 8
      for (int k = 0; k < kPlanes; ++k) {
        if (kAll || k < planes) x[k] = logits(first + k, i);
        // Runs of a tile's length end before the processor's own prefetching has begun.
        if (next) __builtin_prefetch(next + k * p_.logits_strides.classes + i, 0, 2);
      }
      if (guess) {
        V m = x[0];
#pragma GCC unroll 8
        for (int k = 1; k < kPlanes; ++k) {
          if (kAll || k < planes) m = larger(m, x[k]);
        }
        store(group_.reference + i, m);
      }
      const V m = load(group_.reference + i);
      const Reference<S> ref = Reference<S>::of(m);
      V target_logit{};
      I target{};
      if constexpr (!kProbabilities) {
        if (!fresh) target_logit = load(group_.target_logit + i);
        target = load(group_.target + i) - static_cast<Int<A>>(first);
      }
      Sums<A> sums;
#pragma GCC unroll 8
      for (int k = 0; k < kPlanes; ++k) {
        if (kAll || k < planes) {
          const I kept = kProbabilities ? ~I{} : target != static_cast<Int<A>>(k);
          if constexpr (!kProbabilities) target_logit = kept ? target_logit : x[k];
          sums.template add<kTerms>(ref, m, x[k], weights<kTerms>(first + k, i, t[k]), kept);
        }
      }
      if constexpr (!kProbabilities) store(group_.target_logit + i, target_logit);
      add_to(group_.sum + i, sums.exponentials, fresh);
      if constexpr (kTerms != Terms::kIndices) add_to(group_.linear + i, sums.linear, fresh);
      if constexpr (kProbabilities) add_to(group_.mass + i, sums.mass, fresh);
    }
  }

  // The planes to be read after those that begin with class `first`: of the next tile at the end.
  const S* next_planes(int64_t first) const {
    return first + kPlanes < p_.classes ? logits_at(first + kPlanes) : logits_at(0) + kPlaneTile;
  }

  static void add_to(double* p, Vec<double> v, bool fresh) { store(p, fresh ? v : load(p) + v); }
  static void add_to(double* p, Vec<float> v, bool fresh) {
    const Widened w = widen(v);
    add_to(p, w.low, fresh);
    add_to(p + kLanes<double>, w.high, fresh);
  }

  template <Terms kTerms>
  void write(const Backward& out) {
    constexpr bool kProbabilities = kTerms == Terms::kProbabilities;
    S* grad_base = static_cast<S*>(out.grad_logits);
    for (int64_t c = 0; c < p_.classes; ++c) {
      const A* t = kProbabilities ? probabilities(c, targets_[0]) : nullptr;
      S* plane =
          grad_base + row_offset(p_, out.grad_strides, first_) + c * out.grad_strides.classes;
      const bool more = c + 1 < p_.classes;
      const bool streamed = streams<S>(p_) && lanes_to_alignment(plane) == 0;
      for (int i = 0; i < n_; i += kW) {
        if (more) __builtin_prefetch(logits_at(c + 1) + i, 0, 2);
        const Reference<S> ref{load(factors_.shift + i), load(factors_.c + i)};
        V g = gradient<kTerms>(ref, load(factors_.factor + i), load(factors_.grad + i),
                               logits(c, i), weights<kTerms>(c, i, t));
        if constexpr (!kProbabilities) {
          const I y = load(group_.target + i);
          g = y == static_cast<Int<A>>(c) ? load(factors_.at_target + i) : g;
          g = y < 0 ? V{} : g;
        }
        if (i + kW > n_) {
          store_partial(plane + i, n_ - i, g);
        } else if (streamed) {
          stream(plane + i, g);
        } else {
          store(plane + i, g);
        }
      }
    }
  }

  const Problem& p_;
  const Smoothing smoothing_;
  const Mixing<A> mixing_;
  const A* const weight_;
  const bool transpose_;
  int64_t first_ = 0, base_ = 0;
  int n_ = 0;
  Group<A> group_;
  Factors<A> factors_;
  alignas(64) double grad_[kGroup], loss_[kGroup];
  alignas(64) A targets_[kPlanes][kPlaneTile];
  // Of transposed rows. Lanes past the end are computed with, so they need numbers.
  alignas(64) S gathered_[kTransposedClasses * kTransposedTile];
  alignas(64) A flat_[kTransposedClasses * kTransposedTile + kSquare<A>] = {};
  alignas(64) A transposed_[kTransposedClasses * kTransposedTile];
};

}  // namespace fused_ce::cpu::FUSED_CE_ISA
