// Tiles: the lanes of a vector are rows, and the loop runs over the classes.
// For logits whose neighbours in memory are rows ((N,C,d1..) planes, transposed matrices), read in
// place, and for rows of few classes, where vectors along the classes would be mostly empty: those
// are transposed in the cache.
#pragma once

#include "layout.h"
#include "sum.h"
#include "terms.h"
#include "transpose.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

// Rows of at most so many classes are transposed.
inline constexpr int64_t kFewClasses = 16;
inline constexpr int kTile = kGroup;  // rows a tile
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
    open<kTerms>(first, n, &sums);
    set_reference(p_.classes < kPlanes ? p_.classes : kPlanes, kIndices);
    sum<kTerms>();
    if (p_.classes > kPlanes && !all_in_range()) {
      set_reference(p_.classes, kIndices);
      sum<kTerms>();
    }
    finish_forward<S, kIndices>(group_, n, smoothing_, loss_);
    sums.loss.add(loss_, n);
    if (kIndices) sums.weight.add(group_.target_weight, n);
    put_results<A, kIndices>(out, group_, loss_, first, n);
  }

  template <Terms kTerms>
  void backward(const Backward& out, int64_t first, int n) {
    constexpr bool kIndices = kTerms != Terms::kProbabilities;
    open<kTerms>(first, n, nullptr);
    for (int i = 0; i < padded(n); ++i) {
      const int64_t row = first + (i < n ? i : n - 1);
      group_.reference[i] = static_cast<const A*>(out.saved.reference)[row];
      group_.sum[i] = static_cast<double>(static_cast<const A*>(out.saved.sum)[row]);
      if (!kIndices)
        group_.mass[i] = static_cast<double>(static_cast<const A*>(out.saved.mass)[row]);
      grad_[i] = out.grad_rows ? out.grad_rows[row] : out.grad;
    }
    finish_backward<S, kIndices>(group_, padded(n), smoothing_, grad_, factors_);
    write<kTerms>(out);
  }

 private:
  static int padded(int n) { return (n + kW - 1) / kW * kW; }

  // Reads the targets and finds the logits. Lanes past the end repeat the last row and are never
  // stored.
  template <Terms kTerms>
  void open(int64_t first, int n, TaskSums* sums) {
    first_ = first;
    n_ = n;
    base_ = row_offset(p_, p_.logits_strides, first);
    if constexpr (kTerms != Terms::kProbabilities) {
      for (int i = 0; i < padded(n); ++i) {
        const bool real = i < n;
        const bool valid = read_target<S, A>(p_, first + (real ? i : n - 1), group_, i);
        if (sums && real && !valid && sums->bad_row < 0) sums->bad_row = first + i;
      }
    }
    if (transpose_) gather_rows();
  }

  const S* row_of(int i) const {
    return static_cast<const S*>(p_.logits) +
           row_offset(p_, p_.logits_strides, first_ + (i < n_ ? i : n_ - 1));
  }

  // The rows' logits, class by class.
  void gather_rows() {
    const int classes = static_cast<int>(p_.classes);
    const int64_t stride = p_.logits_strides.classes;
    for (int i = 0; i < padded(n_); i += kW) {
      for (int c = 0; c < classes; c += kW) {
        const int some = classes - c < kW ? classes - c : kW;
        V square[kW];
        if (stride == 1) {
          for (int k = 0; k < kW; ++k) square[k] = load_partial(row_of(i + k) + c, some, A(0));
          transpose<A>(square);
        } else {
          for (int k = 0; k < kW; ++k) {
            const S* row = row_of(i + k) + c * stride;
            for (int m = 0; m < some; ++m) square[m][k] = get(row + m * stride);
          }
        }
        for (int m = 0; m < some; ++m) store(transposed_ + (c + m) * kTile + i, square[m]);
      }
    }
  }

  void scatter_rows(const Backward& out) const {
    const int classes = static_cast<int>(p_.classes);
    const int64_t stride = out.grad_strides.classes;
    for (int i = 0; i < n_; i += kW) {
      const int rows = n_ - i < kW ? n_ - i : kW;
      for (int c = 0; c < classes; c += kW) {
        const int some = classes - c < kW ? classes - c : kW;
        V square[kW] = {};
        for (int m = 0; m < some; ++m) square[m] = load(transposed_ + (c + m) * kTile + i);
        transpose<A>(square);
        for (int k = 0; k < rows; ++k) {
          S* row = static_cast<S*>(out.grad_logits) +
                   row_offset(p_, out.grad_strides, first_ + i + k) + c * stride;
          if (stride == 1) {
            store_partial(row, some, square[k]);
          } else {
            for (int m = 0; m < some; ++m) put(row + m * stride, square[k][m]);
          }
        }
      }
    }
  }

  V logits(int64_t c, int i) const {
    if (transpose_) return load(transposed_ + c * kTile + i);
    const S* plane = static_cast<const S*>(p_.logits) + base_ + c * p_.logits_strides.classes;
    return i + kW <= n_ ? load(plane + i) : load_partial(plane + i, n_ - i, A(0));
  }

  void set_reference(int64_t classes, bool indices) {
    for (int i = 0; i < n_; i += kW) {
      V m = indices ? load(group_.target_logit + i) : splat(-static_cast<A>(__builtin_inf()));
      for (int64_t c = 0; c < classes; ++c) {
        const V x = logits(c, i);
        m = x > m ? x : m;
      }
      store(group_.reference + i, m);
    }
  }

  bool all_in_range() const {
    for (int i = 0; i < n_; ++i) {
      if (!(group_.sum[i] < ReferenceConstants<S>::kLargestSum) ||
          group_.reference[i] == -static_cast<A>(__builtin_inf())) {
        return false;
      }
    }
    return true;
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

  template <Terms kTerms>
  void sum() {
    constexpr bool kProbabilities = kTerms == Terms::kProbabilities;
    for (int i = 0; i < padded(n_); ++i) group_.sum[i] = group_.linear[i] = group_.mass[i] = 0;
    for (int64_t first = 0; first < p_.classes; first += kPlanes) {
      const int planes =
          static_cast<int>(p_.classes - first < kPlanes ? p_.classes - first : kPlanes);
      const A* t[kPlanes] = {};
      if constexpr (kProbabilities) {
        for (int k = 0; k < planes; ++k) t[k] = probabilities(first + k, targets_[k]);
      }
      for (int i = 0; i < n_; i += kW) {
        const V m = load(group_.reference + i);
        const Reference<S> ref = Reference<S>::of(m);
        Sums<A> sums;
        for (int k = 0; k < planes; ++k) {
          const int64_t c = first + k;
          const V x = logits(c, i);
          const V q = weights<kTerms>(c, i, t[k]);
          const I is_target =
              kProbabilities ? I{} : load(group_.target + i) == static_cast<Int<A>>(c);
          sums.template add<kTerms>(ref, m, x, q, is_target);
        }
        add_to(group_.sum + i, sums.exponentials);
        if constexpr (kTerms != Terms::kIndices) add_to(group_.linear + i, sums.linear);
        if constexpr (kProbabilities) add_to(group_.mass + i, sums.mass);
      }
    }
    if constexpr (!kProbabilities) {
      for (int i = 0; i < padded(n_);
           ++i) {  // a NaN of an ignored row must not send the tile to the slow path
        if (group_.target[i] < 0) group_.reference[i] = 0, group_.sum[i] = 1;
      }
    }
  }

  static void add_to(double* p, Vec<double> v) { store(p, load(p) + v); }
  static void add_to(double* p, Vec<float> v) {
    const Widened w = widen(v);
    add_to(p, w.low);
    add_to(p + kLanes<double>, w.high);
  }

  template <Terms kTerms>
  void write(const Backward& out) {
    constexpr bool kProbabilities = kTerms == Terms::kProbabilities;
    S* grad_base = static_cast<S*>(out.grad_logits);
    for (int64_t c = 0; c < p_.classes; ++c) {
      const A* t = kProbabilities ? probabilities(c, targets_[0]) : nullptr;
      S* plane =
          grad_base + row_offset(p_, out.grad_strides, first_) + c * out.grad_strides.classes;
      for (int i = 0; i < n_; i += kW) {
        const Reference<S> ref{load(factors_.shift + i), load(factors_.c + i)};
        V g = gradient<kTerms>(ref, load(factors_.factor + i), load(factors_.grad + i),
                               logits(c, i), weights<kTerms>(c, i, t));
        if constexpr (!kProbabilities) {
          const I y = load(group_.target + i);
          g = y == static_cast<Int<A>>(c) ? load(factors_.at_target + i) : g;
          g = y < 0 ? V{} : g;
        }
        if (transpose_) {
          store(transposed_ + c * kTile + i, g);
        } else if (i + kW <= n_) {
          store(plane + i, g);
        } else {
          store_partial(plane + i, n_ - i, g);
        }
      }
    }
    if (transpose_) scatter_rows(out);
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
  alignas(64) A targets_[kPlanes][kTile];
  alignas(64) A transposed_[kFewClasses * kTile];
};

}  // namespace fused_ce::cpu::FUSED_CE_ISA
