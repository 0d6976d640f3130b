// Planes: logits whose neighbours in memory are rows ((N,C,d1..) and transposed matrices), read in
// place. The lanes of a vector are rows, and the loop runs over the classes.
#pragma once

#include "layout.h"
#include "results.h"
#include "terms.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

// Rows a tile: enough that each plane is read in long runs.
inline constexpr int kPlaneTile = 512;
// Classes taken together: their vectors share the loads of the rows' state, and float lanes never
// add up more of them before they go into double. Few, since planes often lie a power of two apart,
// where the caches hold no more than eight lines.
inline constexpr int kPlanes = 4;
// How far a target's logit may be above a guessed reference: its exponential fits into double.
inline constexpr double kFarTarget = 256;
// Indices: classes whose largest logit is the first guess of a row's reference.
inline constexpr int64_t kProbedPlanes = 8;

template <class S>
class Planes {
  using A = Accumulate<S>;
  using V = Vec<A>;
  using I = Vec<Int<A>>;
  static constexpr int kW = kLanes<A>;
  static constexpr A kNone = -static_cast<A>(__builtin_inf());  // its exponential is 0

 public:
  explicit Planes(const Problem& problem)
      : p_(problem),
        smoothing_(problem),
        mixing_(smoothing_),
        weight_(static_cast<const A*>(problem.weight)) {}

  // rows [first, first + n) of one tile
  template <Terms kTerms>
  void forward(const Forward& out, int64_t first, int n, TaskSums& sums) {
    constexpr bool kIndices = kTerms != Terms::kProbabilities;
    const int64_t bad = open<kTerms>(first, n);
    if (sums.bad_row < 0) sums.bad_row = bad;
    find_references<kTerms>(kIndices ? smaller(p_.classes, kProbedPlanes) : p_.classes);
    sum<kTerms>();
    if (kIndices && p_.classes > kProbedPlanes && !all_in_range<kTerms>()) {
      find_references<kTerms>(p_.classes);
      sum<kTerms>();
    }
    put_group<S, kIndices>(p_, smoothing_, group_, first, n, out, loss_, sums);
  }

  template <Terms kTerms>
  void backward(const Backward& out, int64_t first, int n, bool streamed) {
    constexpr bool kIndices = kTerms != Terms::kProbabilities;
    open<kTerms>(first, n);
    read_saved<A, kIndices>(out, first, n, padded(n), group_, grad_);
    finish_backward<S, kIndices>(group_, padded(n), smoothing_, grad_, factors_);
    write<kTerms>(out, streamed);
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
    if constexpr (kTerms == Terms::kProbabilities) return kNoBadRow;
    return read_targets<A>(p_, first, n, padded(n), group_);
  }

  V logits(int64_t c, int i) const {
    const S* x = logits_at(c) + i;
    return i + kW <= n_ ? load(x) : load_partial(x, n_ - i, A(0));
  }

  const S* logits_at(int64_t c) const {
    return static_cast<const S*>(p_.logits) + base_ + c * p_.logits_strides.classes;
  }

  // The references: the largest of the first logits of each row; beside probabilities of all, and
  // its class is the pivot.
  template <Terms kTerms>
  void find_references(int64_t classes) {
    constexpr bool kProbabilities = kTerms == Terms::kProbabilities;
    for (int64_t first = 0; first < classes; first += kPlanes) {
      const int planes = static_cast<int>(smaller<int64_t>(classes - first, kPlanes));
      const S* next = logits_after(first);
      for (int i = 0; i < n_; i += kW) {
        prefetch(next, i);
        V m = first == 0 ? splat(kNone) : load(group_.reference + i);
        I pivot = first == 0 || !kProbabilities ? I{} : load(group_.pivot + i);
        for (int k = 0; k < planes; ++k) {
          const V x = logits(first + k, i);
          if constexpr (kProbabilities)
            pivot = x > m ? I{} + static_cast<Int<A>>(first + k) : pivot;
          m = larger(m, x);
        }
        store(group_.reference + i, m);
        if constexpr (kProbabilities) store(group_.pivot + i, pivot);
      }
    }
    for (int i = 0; i < n_; i += kW)
      references_[i / kW] = Reference<S>(Offset<A>::template of<S>(load(group_.reference + i)));
  }

  template <Terms kTerms>
  bool all_in_range() const {
    const double largest = largest_sum<S>(kTerms != Terms::kIndices, p_.classes);
    bool in_range = true;
    for (int i = 0; i < n_; i += kLanes<double>) {
      const Vec<double> sum = lanes(group_.sum, i), m = lanes(group_.reference, i);
      in_range &= all_lanes((sum >= 0.0) & (sum < largest) & (m != static_cast<double>(kNone)));
      // The target's own exponential is not in the sum.
      in_range &= all_lanes(lanes(group_.pivot_logit, i) - m < kFarTarget);
    }
    return in_range;
  }

  template <Terms kTerms>
  V weights(int64_t c, int i, const A* target) const {
    if constexpr (kTerms == Terms::kIndices) return V{};
    const V weight = splat(weight_ ? weight_[c] : A(1));
    if constexpr (kTerms == Terms::kSmoothed) return weight;
    return mixing_(weight, load(target + i));
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
  template <Terms kTerms>
  void sum() {
    for (int64_t first = 0; first < p_.classes; first += kPlanes) {
      const int64_t left = p_.classes - first;
      if (left >= kPlanes) {
        sum_planes<kTerms, true>(first, kPlanes);
      } else {
        sum_planes<kTerms, false>(first, static_cast<int>(left));
      }
    }
    if constexpr (kTerms != Terms::kProbabilities) {
      // A NaN of an ignored row must not send the tile to the slow path.
      for (int i = 0; i < padded(n_); ++i) {
        if (group_.pivot[i] < 0) group_.reference[i] = 0, group_.sum[i] = 1;
      }
    }
  }

  // kAll: `planes` is kPlanes, and the loops over it are unrolled.
  template <Terms kTerms, bool kAll>
  void sum_planes(int64_t first, int planes) {
    constexpr bool kProbabilities = kTerms == Terms::kProbabilities;
    const A* t[kPlanes] = {};
    const S* x[kPlanes];
    for (int k = 0; k < planes; ++k) {
      x[k] = logits_at(first + k);
      if constexpr (kProbabilities) t[k] = probabilities(first + k, targets_[k]);
    }
    const bool fresh = first == 0;
    const S* next = logits_after(first);
    const char* next_t = kProbabilities ? probabilities_after(first) : nullptr;
    const auto add = [&](int i, auto load_logits) __attribute__((always_inline)) {
      prefetch(next, i);
      if constexpr (kProbabilities) prefetch_probabilities(next_t, i);
      const V m = load(group_.reference + i);
      const Reference<S> ref = references_[i / kW];
      V pivot_logit = fresh ? V{} : load(group_.pivot_logit + i);
      const I pivot = load(group_.pivot + i) - static_cast<Int<A>>(first);
      Sums<V> halves[2];  // a sum of two sums is rounded less often than a chain
#pragma GCC unroll 4
      for (int k = 0; k < kPlanes; ++k) {
        if (!kAll && k >= planes) break;
        const V logits = load_logits(x[k] + i);
        const auto is_pivot = pivot == static_cast<Int<A>>(k);
        pivot_logit = is_pivot ? logits : pivot_logit;
        const V kept = is_pivot ? splat(kNone) : logits;
        halves[k % 2].template add<kTerms>(ref, m, logits, kept,
                                           weights<kTerms>(first + k, i, t[k]));
      }
      const Sums<V> sums = halves[0] + halves[1];
      store(group_.pivot_logit + i, pivot_logit);
      add_to(group_.sum + i, sums.exponentials, fresh);
      if constexpr (kTerms != Terms::kIndices) add_to(group_.linear + i, sums.linear, fresh);
      if constexpr (kProbabilities) add_to(group_.mass + i, sums.mass, fresh);
    };
    int i = 0;
    for (; i + kW <= n_; i += kW) add(i, [](const S* p) { return load(p); });
    if (i < n_) add(i, [&](const S* p) { return load_partial(p, n_ - i, A(0)); });
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

  static void add_to(double* p, Vec<double> v, bool fresh) { store(p, fresh ? v : load(p) + v); }
  static void add_to(double* p, Vec<float> v, bool fresh) {
    const Widened w = widen(v);
    add_to(p, w.low, fresh);
    add_to(p + kLanes<double>, w.high, fresh);
  }

  template <Terms kTerms>
  void write(const Backward& out, bool streamed) {
    for (int i = 0; i < n_; i += kW) {
      references_[i / kW] =
          Reference<S>(load(factors_.shift + i), load(factors_.c + i), factors_.shifted);
    }
    for (int64_t first = 0; first < p_.classes; first += kPlanes) {
      const int64_t left = p_.classes - first;
      if (left >= kPlanes) {
        write_planes<kTerms, true>(out, first, kPlanes, streamed);
      } else {
        write_planes<kTerms, false>(out, first, static_cast<int>(left), streamed);
      }
    }
  }

  template <Terms kTerms, bool kAll>
  void write_planes(const Backward& out, int64_t first, int planes, bool streamed) {
    constexpr bool kProbabilities = kTerms == Terms::kProbabilities;
    S* grad = static_cast<S*>(out.grad_logits) + row_offset(p_, out.grad_strides, first_) +
              first * out.grad_strides.classes;
    const A* t[kPlanes] = {};
    const S* x[kPlanes];
    // Half types are converted in a loop of their own, as in row_gradients.h, and planes are
    // streamed one by one: lines of several at once leave the processor half filled.
    const bool direct = sizeof(S) == sizeof(A) && !streamed;
    A* g[kPlanes];
    for (int k = 0; k < planes; ++k) {
      x[k] = logits_at(first + k);
      g[k] = direct ? reinterpret_cast<A*>(grad + k * out.grad_strides.classes) : gradient_[k];
      if constexpr (kProbabilities) t[k] = probabilities(first + k, targets_[k]);
    }
    const S* next = logits_after(first);
    const auto gradients = [&](int i, auto load_logits, auto put) __attribute__((always_inline)) {
      prefetch(next, i);
      const Reference<S> ref = references_[i / kW];
      const V factor = load(factors_.factor + i), spread = load(factors_.grad + i);
      const I y = kProbabilities ? I{} : load(group_.pivot + i) - static_cast<Int<A>>(first);
      const I counted = kProbabilities ? ~I{} : load(group_.pivot + i) >= 0;
#pragma GCC unroll 4
      for (int k = 0; k < kPlanes; ++k) {
        if (!kAll && k >= planes) break;
        V v = gradient<kTerms>(ref, factor, spread, load_logits(x[k] + i),
                               weights<kTerms>(first + k, i, t[k]));
        if constexpr (!kProbabilities) {
          v = y == static_cast<Int<A>>(k) ? load(factors_.at_target + i) : v;
          v = bits_as<V>(bits_as<I>(v) & counted);
        }
        put(g[k] + i, v);
      }
    };
    int i = 0;
    for (; i + kW <= n_; i += kW) {
      gradients(i, [](const S* p) { return load(p); }, [](A* p, V v) { store(p, v); });
    }
    if (i < n_) {
      gradients(
          i, [&](const S* p) { return load_partial(p, n_ - i, A(0)); },
          [&](A* p, V v) { store_partial(p, n_ - i, v); });
    }
    for (int k = 0; k < planes && !direct; ++k)
      convert(gradient_[k], grad + k * out.grad_strides.classes, n_, streamed);
  }

  const Problem& p_;
  const Smoothing smoothing_;
  const Mixing<A> mixing_;
  const A* const weight_;
  int64_t first_ = 0, base_ = 0;
  int n_ = 0;
  Group<A, kPlaneTile> group_;
  Factors<A, kPlaneTile> factors_;
  alignas(64) double grad_[kPlaneTile], loss_[kPlaneTile];
  Reference<S> references_[kPlaneTile / kW];
  alignas(64) A targets_[kPlanes][kPlaneTile];
  alignas(64) A gradient_[kPlanes][kPlaneTile];
};

}  // namespace fused_ce::cpu::FUSED_CE_ISA
