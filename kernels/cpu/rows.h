// Rows of many classes: the lanes of a vector are neighbouring classes of one row.
// One read of the logits forward; one read and one write backward. Rows whose classes are not
// neighbours in memory are gathered block by block into a buffer in the cache.
#pragma once

#include "layout.h"
#include "results.h"
#include "terms.h"
#include "transpose.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

// Vectors summed side by side, to hide the latency of an addition.
inline constexpr int kUnroll = 4;
// Rows finished together: their numbers stay in the first cache.
inline constexpr int kRowGroup = 256;
// How far ahead logits are fetched. The processor's own prefetching stops at every page and row,
// and its window of instructions is too short to see the next cache line behind an exponential.
inline constexpr int kPrefetchBytes = 8192;
// The cache they are fetched into. Long rows leave the first one to the processor's own
// prefetching, which the ends of short rows throw off.
inline constexpr int kFirstCache = 1, kSecondCache = 2;
// Rows of fewer bytes are not streamed: the target's gradient, stored last, has to fetch its line
// from memory again, which costs as much as streaming saves on so long a row.
inline constexpr int64_t kStreamedRowBytes = 16384;
// Indices: the first guess of a row's reference is the largest of so many logits.
inline constexpr int kProbe = 128;

template <class S>
class Rows {
  using A = Accumulate<S>;
  using V = Vec<A>;
  static constexpr int kW = kLanes<A>;
  static constexpr int kBlock =
      kLaneTerms * kUnroll * kW;  // classes between two additions into double
  static constexpr A kNone = -static_cast<A>(__builtin_inf());  // its exponential is 0

 public:
  explicit Rows(const Problem& problem)
      : p_(problem),
        smoothing_(problem),
        mixing_(smoothing_),
        weight_(static_cast<const A*>(problem.weight)) {
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

  template <Terms kTerms>
  void backward(const Backward& out, int64_t begin, int64_t end) {
    constexpr bool kIndices = kTerms != Terms::kProbabilities;
    for (int64_t first = begin; first < end; first += kRowGroup) {
      const int n = static_cast<int>(end - first < kRowGroup ? end - first : kRowGroup);
      const int padded = (n + kW - 1) / kW * kW;
      if (kIndices) read_targets<A>(p_, first, n, padded, group_);
      read_saved<A, kIndices>(out, first, n, padded, group_, grad_);
      finish_backward<S, kIndices>(group_, n, smoothing_, grad_, factors_);
      for (int i = 0; i < n; ++i) write_row<kTerms>(out, first + i, i);
    }
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

  const S* row(int64_t r) const {
    return static_cast<const S*>(p_.logits) + row_offset(p_, p_.logits_strides, r);
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

  // Once a cache line: `j` counts from where x points. kCache: 1 or 2.
  template <int kCache, class T>
  static FUSED_CE_INLINE void prefetch(const T* x, int j) {
    constexpr int kLine = 64 / static_cast<int>(sizeof(T));
    if (kLine <= kW || j % kLine == 0)
      __builtin_prefetch(reinterpret_cast<const char*>(x + j) + kPrefetchBytes, 0, 4 - kCache);
  }

  static int block_size(int64_t left) { return static_cast<int>(left < kBlock ? left : kBlock); }

  A largest(const S* row, int64_t n) { return max_lane<A>(largest_lanes(row, n)); }

  V largest_lanes(const S* row, int64_t n) {
    V m = splat(kNone);
    for (int64_t b = 0; b < n; b += kBlock) {
      const int size = block_size(n - b);
      const S* x = block(row, b, size);
      int j = 0;
      for (; j + kW <= size; j += kW) m = larger(m, load(x + j));
      if (j < size) m = larger(m, load_partial(x + j, size - j, kNone));
    }
    return m;
  }

  // The first class that has this logit; 0 where none has, in a row of NaN.
  int first_of(const S* row, A logit) {
    for (int64_t b = 0; b < p_.classes; b += kBlock) {
      const int n = block_size(p_.classes - b);
      const S* x = block(row, b, n);
      for (int j = 0; j < n; j += kW) {
        const V v = j + kW <= n ? load(x + j) : load_partial(x + j, n - j, A(__builtin_nanf("")));
        if (all_lanes(v != logit)) continue;
        int lane = 0;
        while (v[lane] != logit) ++lane;
        return static_cast<int>(b) + j + lane;
      }
    }
    return 0;
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

  // The weights of the linear sum of lanes j..j+kW.
  template <Terms kTerms>
  V weights(const A* w, const A* t, int j) const {
    if constexpr (kTerms == Terms::kIndices) return V{};
    const V weight = w ? load(w + j) : splat(A(1));
    if constexpr (kTerms == Terms::kSmoothed) return weight;
    return weight * (load(t + j) * mixing_.keep + mixing_.spread);
  }
  template <Terms kTerms>
  V weights_partial(const A* w, const A* t, int n) const {
    if constexpr (kTerms == Terms::kIndices) return V{};
    const V weight = w ? load_partial(w, n, A(0))
                       : (iota<Int<A>>() < static_cast<Int<A>>(n) ? splat(A(1)) : V{});
    if constexpr (kTerms == Terms::kSmoothed) return weight;
    return weight * (load_partial(t, n, A(0)) * mixing_.keep + mixing_.spread);
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
      sums.template add<kTerms>(ref, m, logits, {kept(logits.a, j), kept(logits.b, j + kW)},
                                {weights<kTerms>(w, t, j), weights<kTerms>(w, t, j + kW)});
    };
    Sums<Pair<V>> first_half, second_half;
    Sums<V> rest;
    int j = 0;
    for (; j + kUnroll * kW <= n; j += kUnroll * kW) {
#pragma GCC unroll 4
      for (int u = 0; u < kUnroll; ++u) {
        prefetch<kCache>(x + j, u * kW);
        if constexpr (kTerms == Terms::kProbabilities) prefetch<kCache>(t + j, u * kW);
      }
      add_pair(first_half, j);
      add_pair(second_half, j + 2 * kW);
    }
    static_assert(kUnroll == 4);
    if (j + 2 * kW <= n) add_pair(first_half, j), j += 2 * kW;
    if (j + kW <= n) {
      const V logits = load(x + j);
      rest.template add<kTerms>(ref, m, logits, kept(logits, j), weights<kTerms>(w, t, j));
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
      const V q = n >= kW ? weights<kTerms>(w, t, first) : weights_partial<kTerms>(w, t, n);
      rest.template add<kTerms>(ref, m, logits, present ? kept(logits, first) : splat(kNone),
                                present ? q : V{});
    }
    total.template add<kTerms>(folded(first_half + second_half) + rest);
  }

  template <Terms kTerms>
  void write_row(const Backward& out, int64_t row, int i) {
    const S* x_row = this->row(row);
    S* g_row = static_cast<S*>(out.grad_logits) + row_offset(p_, out.grad_strides, row);
    const int64_t stride = out.grad_strides.classes;
    const bool ignored = kTerms != Terms::kProbabilities && group_.pivot[i] < 0;
    const bool streamed =
        streams<S>(p_) && p_.classes * static_cast<int64_t>(sizeof(S)) >= kStreamedRowBytes;
    const Reference<S> ref(splat(factors_.shift[i]), splat(factors_.c[i]), factors_.shifted);
    for (int64_t b = 0; b < p_.classes; b += kBlock) {
      const int n = block_size(p_.classes - b);
      if (ignored) {
        __builtin_memset(gradient_, 0, static_cast<size_t>(n) * sizeof(A));
        put_block(gradient_, g_row + b * stride, stride, n, streamed);
        continue;
      }
      const S* x = block(x_row, b, n);
      const A* t = kTerms == Terms::kProbabilities ? probabilities(row, b, n) : nullptr;
      const A* w = weight_ ? weight_ + b : nullptr;
      if constexpr (sizeof(S) == sizeof(A)) {
        if (stride == 1) {
          A* g = g_row + b;
          if (streamed) {
            write_block<kTerms, kSecondCache>(x, w, t, n, i, ref, g, lanes_to_alignment(g),
                                              [](A* p, V v) { stream(p, v); });
          } else {
            write_block<kTerms, kFirstCache>(x, w, t, n, i, ref, g, 0,
                                             [](A* p, V v) { store(p, v); });
          }
          continue;
        }
      }
      // Conversion is a loop of its own: behind an exponential, it would be one more thing for the
      // processor's window to hold.
      write_block<kTerms, kFirstCache>(x, w, t, n, i, ref, gradient_, 0,
                                       [](A* p, V v) { store(p, v); });
      put_block(gradient_, g_row + b * stride, stride, n, streamed);
    }
    if constexpr (kTerms != Terms::kProbabilities) {
      if (!ignored) put(g_row + group_.pivot[i] * stride, factors_.at_target[i]);
    }
  }

  // The gradient of n neighbouring logits. Whole vectors from g + head on go through put_whole; the
  // lanes before and after them are written with vectors that overlap those.
  template <Terms kTerms, int kCache, class F>
  FUSED_CE_INLINE void write_block(const S* x, const A* w, const A* t, int n, int i,
                                   const Reference<S>& ref, A* g, int head, F put_whole) {
    const V factor = splat(factors_.factor[i]), grad = splat(factors_.grad[i]);
    const auto whole = [&](int j) __attribute__((always_inline)) {
      return gradient<kTerms>(ref, factor, grad, load(x + j), weights<kTerms>(w, t, j));
    };
    if (n < kW) {
      const V q = weights_partial<kTerms>(w, t, n);
      store_partial(g, n, gradient<kTerms>(ref, factor, grad, load_partial(x, n, A(0)), q));
      return;
    }
    if (head > 0) store(g, whole(0));
    int j = head;
    for (; j + kUnroll * kW <= n; j += kUnroll * kW) {
#pragma GCC unroll 4
      for (int u = 0; u < kUnroll; u += 2) {
        const int at = j + u * kW;
        prefetch<kCache>(x + j, u * kW);
        prefetch<kCache>(x + j, (u + 1) * kW);
        const Pair<V> logits = {load(x + at), load(x + at + kW)};
        const Pair<V> q = {weights<kTerms>(w, t, at), weights<kTerms>(w, t, at + kW)};
        const Pair<V> v = gradient<kTerms>(ref, factor, grad, logits, q);
        put_whole(g + at, v.a);
        put_whole(g + at + kW, v.b);
      }
    }
    for (; j + kW <= n; j += kW) put_whole(g + j, whole(j));
    if (j < n) store(g + n - kW, whole(n - kW));
  }

  // Writes a block of gradients where it belongs.
  static void put_block(const A* from, S* to, int64_t stride, int n, bool streamed) {
    if (stride == 1) return convert(from, to, n, streamed);
    for (int j = 0; j < n; ++j) put(to + j * stride, from[j]);
  }

  const Problem& p_;
  const Smoothing smoothing_;
  const Mixing<A> mixing_;
  const A* const weight_;
  Group<A> group_;
  Factors<A> factors_;
  alignas(64) double grad_[kGroup], loss_[kGroup];
  alignas(64) S gathered_[kBlock];
  alignas(64) A gradient_[kBlock];
  alignas(64) A target_[kBlock];
  // What a logit may be at most: limits_[kBlock - y + j] is -inf where j is the pivot y,
  // and else infinity. One minimum instead of a comparison and a selection.
  alignas(64) A limits_[2 * kBlock];
};

}  // namespace fused_ce::cpu::FUSED_CE_ISA
