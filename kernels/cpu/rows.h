// Rows of many classes: the lanes of a vector are neighbouring classes of one row.
// One read of the logits forward; one read and one write backward. Rows whose classes are not
// neighbours in memory are gathered block by block into a buffer in the cache.
#pragma once

#include "layout.h"
#include "sum.h"
#include "terms.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

// Vectors summed side by side, to hide the latency of an addition.
inline constexpr int kUnroll = 4;
// What a lane adds up before it goes into double: few enough that a float sum keeps its digits.
inline constexpr int kLaneTerms = 16;
// The first guess of a row's reference is the largest of so many logits.
inline constexpr int kProbe = 128;

template <class S>
class Rows {
  using A = Accumulate<S>;
  using V = Vec<A>;
  static constexpr int kW = kLanes<A>;
  static constexpr int kBlock =
      kLaneTerms * kUnroll * kW;  // classes between two additions into double

 public:
  explicit Rows(const Problem& problem)
      : p_(problem),
        smoothing_(problem),
        mixing_(smoothing_),
        weight_(static_cast<const A*>(problem.weight)) {}

  template <Terms kTerms>
  Partial forward(const Forward& out, int64_t begin, int64_t end) {
    constexpr bool kIndices = kTerms != Terms::kProbabilities;
    TaskSums sums;
    for (int64_t first = begin; first < end; first += kGroup) {
      const int n = static_cast<int>(end - first < kGroup ? end - first : kGroup);
      pad_from(n);
      for (int i = 0; i < n; ++i) {
        const int64_t row = first + i;
        if constexpr (kIndices) {
          if (!read_target<S, A>(p_, row, group_, i) && sums.bad_row < 0) sums.bad_row = row;
          if (group_.target[i] < 0) {
            blank(i);
            continue;
          }
        }
        sum_row<kTerms>(row, i);
      }
      finish<kIndices>(out, first, n, sums);
    }
    return sums.partial();
  }

  template <Terms kTerms>
  void backward(const Backward& out, int64_t begin, int64_t end) {
    constexpr bool kIndices = kTerms != Terms::kProbabilities;
    const A* references = static_cast<const A*>(out.saved.reference);
    const A* sums = static_cast<const A*>(out.saved.sum);
    const A* masses = static_cast<const A*>(out.saved.mass);
    for (int64_t first = begin; first < end; first += kGroup) {
      const int n = static_cast<int>(end - first < kGroup ? end - first : kGroup);
      pad_from(n);
      for (int i = 0; i < n; ++i) {
        const int64_t row = first + i;
        if constexpr (kIndices) read_target<S, A>(p_, row, group_, i);
        if constexpr (!kIndices) group_.mass[i] = static_cast<double>(masses[row]);
        group_.reference[i] = references[row];
        group_.sum[i] = static_cast<double>(sums[row]);
        grad_[i] = out.grad_rows ? out.grad_rows[row] : out.grad;
      }
      finish_backward<S, kIndices>(group_, n, smoothing_, grad_, factors_);
      for (int i = 0; i < n; ++i) write_row<kTerms>(out, first + i, i);
    }
  }

 private:
  void blank(int i) {
    group_.reference[i] = 0;
    group_.sum[i] = 1;
    group_.linear[i] = group_.mass[i] = 0;
  }

  // Lanes past the group's end are computed with: give them harmless values.
  void pad_from(int n) {
    for (int i = n; i % kLanes<double>; ++i) {
      blank(i);
      group_.target_logit[i] = 0;
      group_.target_weight[i] = 0;
      group_.target[i] = -1;
      grad_[i] = 0;
    }
  }

  template <bool kIndices>
  void finish(const Forward& out, int64_t first, int n, TaskSums& sums) {
    finish_forward<S, kIndices>(group_, n, smoothing_, loss_);
    sums.loss.add(loss_, n);
    if (kIndices) sums.weight.add(group_.target_weight, n);
    put_results<A, kIndices>(out, group_, loss_, first, n);
  }

  const S* block(const S* row, int64_t b, int n) {
    const int64_t stride = p_.logits_strides.classes;
    if (stride == 1) return row + b;
    for (int k = 0; k < n; ++k) gathered_[k] = row[(b + k) * stride];
    return gathered_;
  }

  const A* probabilities(int64_t row, int64_t b, int n) {
    const Strides& s = p_.target_strides;
    return gather<A>(p_.target, p_.target_dtype, row_offset(p_, s, row) + b * s.classes, s.classes,
                     n, target_);
  }

  static int block_size(int64_t left) { return static_cast<int>(left < kBlock ? left : kBlock); }

  A largest(const S* row, int64_t n) {
    V m = splat(-static_cast<A>(__builtin_inf()));
    for (int64_t b = 0; b < n; b += kBlock) {
      const int size = block_size(n - b);
      const S* x = block(row, b, size);
      int j = 0;
      for (; j + kW <= size; j += kW) m = larger(m, load(x + j));
      if (j < size) m = larger(m, load_partial(x + j, size - j, -static_cast<A>(__builtin_inf())));
    }
    return max_lane<A>(m);
  }

  // The first guess of a row's reference. The sum of exponentials has headroom enough for any guess
  // that is near the row's logits, as the target's is in all but the worst predictions; the linear
  // sum would lose digits with one far from the largest.
  template <Terms kTerms>
  A guess(const S* x, int i) {
    constexpr A kNone = -static_cast<A>(__builtin_inf());
    if (kTerms == Terms::kIndices && group_.target_logit[i] > kNone) return group_.target_logit[i];
    A m = largest(x, p_.classes < kProbe ? p_.classes : kProbe);
    if (kTerms != Terms::kProbabilities) m = larger(m, group_.target_logit[i]);
    return m == kNone ? largest(x, p_.classes) : m;
  }

  template <Terms kTerms>
  void sum_row(int64_t row, int i) {
    const S* x = static_cast<const S*>(p_.logits) + row_offset(p_, p_.logits_strides, row);
    sum_row_relative_to<kTerms>(x, row, i, guess<kTerms>(x, i));
    if (!(group_.sum[i] < ReferenceConstants<S>::kLargestSum)) {
      sum_row_relative_to<kTerms>(x, row, i, largest(x, p_.classes));
    }
  }

  template <Terms kTerms>
  void sum_row_relative_to(const S* row_start, int64_t row, int i, A m) {
    const Reference<S> ref = Reference<S>::of(splat(m));
    const int64_t y = kTerms == Terms::kProbabilities ? -1 : group_.target[i];
    RowSums<A> total;
    for (int64_t b = 0; b < p_.classes; b += kBlock) {
      const int n = block_size(p_.classes - b);
      const S* x = block(row_start, b, n);
      const A* t = kTerms == Terms::kProbabilities ? probabilities(row, b, n) : nullptr;
      const A* w = weight_ ? weight_ + b : nullptr;
      if (y >= b && y < b + n) {
        sum_block<kTerms, true>(x, w, t, n, ref, splat(m), static_cast<int>(y - b), total);
      } else {
        sum_block<kTerms, false>(x, w, t, n, ref, splat(m), 0, total);
      }
    }
    group_.reference[i] = m;
    group_.sum[i] = total.exponentials.total();
    if constexpr (kTerms != Terms::kIndices) group_.linear[i] = total.linear.total();
    if constexpr (kTerms == Terms::kProbabilities) group_.mass[i] = total.mass.total();
  }

  // The weights of the linear sum of lanes j..j+kW.
  template <Terms kTerms>
  V weights(const A* w, const A* t, int j) const {
    if constexpr (kTerms == Terms::kIndices) return V{};
    const V weight = w ? load(w + j) : splat(A(1));
    if constexpr (kTerms == Terms::kSmoothed) return weight;
    return weight * (load(t + j) * mixing_.keep + mixing_.spread);
  }
  template <Terms kTerms>
  V weights_partial(const A* w, const A* t, int j, int n) const {
    if constexpr (kTerms == Terms::kIndices) return V{};
    const V weight = w ? load_partial(w + j, n, A(0))
                       : (iota<Int<A>>() < static_cast<Int<A>>(n) ? splat(A(1)) : V{});
    if constexpr (kTerms == Terms::kSmoothed) return weight;
    return weight * (load_partial(t + j, n, A(0)) * mixing_.keep + mixing_.spread);
  }

  // Adds a block to a row's sums. kHasTarget: class `y` of it is the target's, whose own
  // exponential stays out of the sum.
  template <Terms kTerms, bool kHasTarget>
  FUSED_CE_INLINE void sum_block(const S* x, const A* w, const A* t, int n, const Reference<S>& ref,
                                 V m, int y, RowSums<A>& total) {
    const auto is_target = [y](int j) __attribute__((always_inline)) {
      return kHasTarget ? iota<Int<A>>() == static_cast<Int<A>>(y - j) : Vec<Int<A>>{};
    };
    Sums<A> sums[kUnroll];
    const auto add = [&](int u, int j) __attribute__((always_inline)) {
      sums[u].template add<kTerms>(ref, m, load(x + j), weights<kTerms>(w, t, j), is_target(j));
    };
    int j = 0;
    for (; j + kUnroll * kW <= n; j += kUnroll * kW) {
#pragma GCC unroll 4
      for (int u = 0; u < kUnroll; ++u) add(u, j + u * kW);
    }
    // Not a loop over sums[u], which would keep the sums in memory.
    if (j + kW <= n) add(0, j), j += kW;
    if (j + kW <= n) add(1, j), j += kW;
    if (j + kW <= n) add(2, j), j += kW;
    static_assert(kUnroll == 4);
    if (j < n) {
      // Lanes past the end are skipped, and their weight is 0.
      const Vec<Int<A>> past = iota<Int<A>>() >= static_cast<Int<A>>(n - j);
      sums[kUnroll - 1].template add<kTerms>(ref, m, load_partial(x + j, n - j, m[0]),
                                             weights_partial<kTerms>(w, t, j, n - j),
                                             past | is_target(j));
    }
#pragma GCC unroll 2
    for (int u = 0; u < kUnroll; u += 2) total.template add<kTerms>(sums[u], sums[u + 1]);
  }

  template <Terms kTerms>
  void write_row(const Backward& out, int64_t row, int i) {
    const S* x_row = static_cast<const S*>(p_.logits) + row_offset(p_, p_.logits_strides, row);
    S* g_row = static_cast<S*>(out.grad_logits) + row_offset(p_, out.grad_strides, row);
    const int64_t stride = out.grad_strides.classes;
    const bool ignored = kTerms != Terms::kProbabilities && group_.target[i] < 0;
    const Reference<S> ref{splat(factors_.shift[i]), splat(factors_.c[i])};
    const V factor = splat(factors_.factor[i]), grad = splat(factors_.grad[i]);
    for (int64_t b = 0; b < p_.classes; b += kBlock) {
      const int n = block_size(p_.classes - b);
      S* g = stride == 1 ? g_row + b : scattered_;
      if (ignored) {
        __builtin_memset(g, 0, static_cast<size_t>(n) * sizeof(S));
      } else {
        const S* x = block(x_row, b, n);
        const A* t = kTerms == Terms::kProbabilities ? probabilities(row, b, n) : nullptr;
        const A* w = weight_ ? weight_ + b : nullptr;
        int j = 0;
        for (; j + kW <= n; j += kW) {
          store(g + j, gradient<kTerms>(ref, factor, grad, load(x + j), weights<kTerms>(w, t, j)));
        }
        if (j < n) {
          const V q = weights_partial<kTerms>(w, t, j, n - j);
          store_partial(g + j, n - j,
                        gradient<kTerms>(ref, factor, grad, load_partial(x + j, n - j, A(0)), q));
        }
      }
      if (stride != 1) {
        for (int k = 0; k < n; ++k) g_row[(b + k) * stride] = scattered_[k];
      }
    }
    if constexpr (kTerms != Terms::kProbabilities) {
      if (!ignored) put(g_row + group_.target[i] * stride, factors_.at_target[i]);
    }
  }

  const Problem& p_;
  const Smoothing smoothing_;
  const Mixing<A> mixing_;
  const A* const weight_;
  Group<A> group_;
  Factors<A> factors_;
  alignas(64) double grad_[kGroup], loss_[kGroup];
  alignas(64) S gathered_[kBlock], scattered_[kBlock];
  alignas(64) A target_[kBlock];
};

}  // namespace fused_ce::cpu::FUSED_CE_ISA
