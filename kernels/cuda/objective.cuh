// SPDX-License-Identifier: BSD-3-Clause
// What is computed of a row, the one thing that every loop holds: what a logit is, what a row is
// held against, what a class adds to the row's sums, how the row ends, and what a class gets back.
// Loops know where logits lie and in which order to take them, and nothing else. The mirror of
// cpu/objective.h.
#pragma once

#include "cap.cuh"
#include "factors.cuh"
#include "slice.cuh"

namespace fused_ce::cuda {

// An argument of the kernels, by value.
template <class S, Terms kTerms>
class Objective {
  using A = Accumulate<S>;

 public:
  const Problem problem;

  explicit Objective(const Problem& p) : problem(p), coefficients_(p), cap_(p) {}

  // ---- A logit: what becomes of a number in memory before anything is computed with it. (Its
  // scale does not show here: exponentials have it.)

  __device__ __forceinline__ A logit(A x) const {
    if constexpr (kIsGeneral<kTerms>) return cap_.is_there() ? cap_.of(x).logit : x;
    return x;
  }
  template <int kN>
  __device__ __forceinline__ void logits(const S* x, A (&z)[kN]) const {
#pragma unroll
    for (int k = 0; k < kN; ++k) z[k] = get(x[k]);
    if constexpr (kIsGeneral<kTerms>) {
      if (!cap_.is_there()) return;
#pragma unroll
      for (int k = 0; k < kN; ++k) z[k] = cap_.of(z[k]).logit;
    }
  }

  // How far apart z's are, for two logits.
  __device__ __forceinline__ A distance(A from, A to) const {
    return coefficients_.scale.s * (to - from);
  }

  // What exponentials of a row are taken relative to, by a reference m.
  __device__ __forceinline__ Offset<S> offset(A m) const {
    return Offset<S>::of(m, coefficients_.scale);
  }
  __device__ __forceinline__ Reference<S> reference(A m) const { return reference(offset(m)); }
  __device__ __forceinline__ Reference<S> reference(const Offset<S>& offset) const {
    return Reference<S>(offset, coefficients_.scale);
  }
  // The reference to sum a row by. Beside an infinite one, sums would be NaN: beside the number
  // next to it they tell a row with an infinite logit from one with NaN.
  __device__ __forceinline__ A finite(A m) const {
    constexpr A kLargest = Constants<A>::kLargest;
    return larger(-kLargest, smaller(m, kLargest));
  }

  // ---- What a row is held against.

  // What is in memory for a row's class: to be asked for early.
  __device__ __forceinline__ int64_t index(int64_t row) const {
    return kHasMass<kTerms> ? int64_t{kMixed} : read_index(problem, row);
  }
  // The class that it stands for, or why there is none.
  __device__ __forceinline__ int64_t target_of(int64_t index) const {
    return kHasMass<kTerms> ? index : class_of(problem, index);
  }
  __device__ __forceinline__ int64_t target(int64_t row) const { return target_of(index(row)); }
  __device__ __forceinline__ bool counts(int64_t y) const {
    return kHasMass<kTerms> || is_any_class(y);
  }
  // Where a row's probabilities begin, if it has any.
  __device__ __forceinline__ int64_t probabilities(int64_t row) const {
    return kHasMass<kTerms> ? row_offset(problem, problem.target_strides, row) : 0;
  }

  // ---- What a logit weighs in the linear sum: of smoothed class indices w_j, of probabilities
  // q_j.

  __device__ __forceinline__ A class_weight(int64_t c) const {
    return problem.weight ? static_cast<const A*>(problem.weight)[c] : A(1);
  }
  // What the target weighs, unless it is elsewhere.
  __device__ __forceinline__ A target_weight(int64_t y) const {
    return is_class(y) ? class_weight(y) : A(0);
  }

  // Whether weights are known to be 1. The general loops are compiled once: they read no weights
  // then, and multiply by 1.
  __device__ __forceinline__ bool all_weigh_the_same() const {
    return !kHasLinear<kTerms> || (!kIsGeneral<kTerms> && !kHasMass<kTerms> && !problem.weight);
  }
  // Calls f(q) with the weights of a row's logits, q[k] of class c + k for k < last. `t`: where the
  // row's probabilities begin. f is compiled twice, the first time for weights that are known to
  // be 1.
  template <int kN, class F>
  __device__ __forceinline__ void with_weights(int64_t t, int64_t c, int last, F f) const {
    A q[kN];
#pragma unroll
    for (int k = 0; k < kN; ++k) q[k] = 1;
    if (all_weigh_the_same()) return f(q);
    if (has_class_weights()) {
#pragma unroll
      for (int k = 0; k < kN; ++k) {
        if (k < last) q[k] = class_weight(c + k);
      }
    }
    if constexpr (kHasMass<kTerms>) {
      A target[kN];
      const int64_t stride = problem.target_strides.classes;
      numbers_at(problem.target, problem.target_dtype, t + c * stride, stride, last, target);
#pragma unroll
      for (int k = 0; k < kN; ++k) q[k] *= coefficients_.smoothed(target[k]);
    }
    f(q);
  }
  // The same for kN neighbouring rows that lie in one plane: q[u][k] of class c + u, u < last, in
  // row k.
  template <int kClasses, int kN, class F>
  __device__ __forceinline__ void with_weights_of_rows(int64_t t, int64_t c, int last, F f) const {
    A q[kClasses][kN];
#pragma unroll
    for (int i = 0; i < kClasses * kN; ++i) q[i / kN][i % kN] = 1;
    if (all_weigh_the_same()) return f(q);
#pragma unroll
    for (int u = 0; u < kClasses; ++u) {
      if (u >= last) continue;
      const A w = has_class_weights() ? class_weight(c + u) : A(1);
#pragma unroll
      for (int k = 0; k < kN; ++k) q[u][k] = w;
      if (!kHasMass<kTerms>) continue;
      A target[kN];
      numbers_at(problem.target, problem.target_dtype, t + (c + u) * problem.target_strides.classes,
                 problem.target_strides.inner, kN, target);
#pragma unroll
      for (int k = 0; k < kN; ++k) q[u][k] *= coefficients_.smoothed(target[k]);
    }
    f(q);
  }

  // ---- What classes add to a row's sums: those of a chunk that are there, k < last, with
  // logits z. `ref` is the reference m.

  template <class Ref, int kN>
  __device__ __forceinline__ void add(RowSums<A, kTerms>& row, const Chunk& chunk, int last,
                                      const Ref& ref, A m, const A (&z)[kN],
                                      const A (&q)[kN]) const {
    const int pivot = set_pivot(row, chunk, last, ref, m, z, q);
    A others[kN];  // -inf, whose exponential is 0, in the place of those that are not added
#pragma unroll
    for (int k = 0; k < kN; ++k) {
      const bool is_pivot = kHasPivot<kTerms> && k == pivot;
      const bool is_target = !kHasMass<kTerms> && k == chunk.target;
      others[k] = k < last && !is_pivot && !is_target ? z[k] : -infinity<A>();
    }
    Sums<A, kTerms> some;
    if constexpr (!kIsGeneral<kTerms>) some.add_exponentials(ref, others);
#pragma unroll
    for (int k = 0; k < kN; ++k) {
      if (k >= last) continue;
      if constexpr (kIsGeneral<kTerms>) {
        const A exponential = ref.exp(others[k]);
        some.exponentials[k % 4] += exponential;
        some.add_gap(exponential, z[k], row.pivot.logit);
      }
      some.add_linear(z[k], kHasMass<kTerms> && k == pivot ? A(0) : q[k], m);
    }
    row.add(some);
    if constexpr (kIsGeneral<kTerms>) {
      if (!is_nan(some.total())) return;
#pragma unroll
      for (int k = 0; k < kN; ++k) {
        const bool is_first = k < last && is_nan(z[k]) && chunk.first + k < row.nan;
        row.nan = is_first ? chunk.first + k : row.nan;
      }
    }
  }

  // ---- How a row ends.

  // y: the row's target, or a NoClass.
  __device__ RowState<A> state(const RowSums<A, kTerms>& sums, A m, int64_t y,
                               A target_logit) const {
    return state_of(sums, m, y, target_logit, target_weight(y));
  }
  __device__ bool is_in_range(const RowState<A>& row) const {
    const bool linear =
        kIsGeneral<kTerms> ? kHasMass<kTerms> || coefficients_.spread != 0 : kHasLinear<kTerms>;
    return cuda::is_in_range<S, kTerms>(row, linear, problem.classes);
  }
  // The loss.
  __device__ RowLoss<A> finish(const RowState<A>& row, bool wants_lse) const {
    if (!counts(row.target)) return {coefficients_.nothing};
    return loss_of<S, kTerms>(coefficients_, row, wants_lse);
  }
  __device__ RowStatistics<A> statistics(const RowState<A>& row) const {
    return statistics_of<S, kTerms>(coefficients_, row);
  }
  // What is left of row i of a slice in the place of a finish.
  __device__ void put_slice(const RowState<A>& row, int64_t i, const SliceSums& out) const {
    cuda::put_slice<S, kTerms>(coefficients_, problem, row, counts(row.target), i, out);
  }
  // What backward will need.
  __device__ SavedRow<A> saved(const RowState<A>& row) const {
    return saved_of<S, kTerms>(coefficients_, row);
  }
  __device__ Factors<S> factors(const Backward& back, int64_t row) const {
    const int64_t y = target(row);
    const double* const target_weights = problem.slice.target_weight;
    const A w = target_weights ? static_cast<A>(target_weights[row]) : target_weight(y);
    SavedRow<A> saved = SavedRow<A>::of(back.saved, row);
    if (is_slice(problem)) saved.sum *= reference(saved.reference).exp(saved.reference);
    const bool has_gap = kIsGeneral<kTerms> && back.grad_entropy;
    return factors_of<S, kTerms>(coefficients_, saved,
                                 has_gap ? static_cast<const A*>(back.saved.gap)[row] : A(0), y, w,
                                 grads_of<S, kTerms>(coefficients_, problem, back, saved, row));
  }

  // ---- What a class of a row that counts gets back, with x in memory; of weight q.

  // Of class indices not the target.
  template <class Ref>
  __device__ __forceinline__ A gradient(const Ref& ref, const Factors<S>& f, S x, A q) const {
    return differentiated(x,
                          [&](A z) { return gradient_of<S, kTerms>(coefficients_, ref, f, z, q); });
  }
  // The target.
  __device__ __forceinline__ A gradient_at_target(const Factors<S>& f, S x) const {
    return differentiated(x, [&](A) { return f.at_target; });
  }

 private:
  // f(z), a gradient by the logit z that becomes of x, as one by x.
  template <class F>
  __device__ __forceinline__ A differentiated(S x, F f) const {
    Capped<A> z{get(x), 1};
    if (kIsGeneral<kTerms> && cap_.is_there()) z = cap_.of(z.logit);
    const A v = f(z.logit);
    return kIsGeneral<kTerms> ? v * z.slope : v;
  }

  __device__ __forceinline__ bool has_class_weights() const {
    return problem.weight && (kHasMass<kTerms> || coefficients_.spread != 0);
  }

  // A larger logit among a chunk's classes than any before takes the pivot's place. Which of them
  // it is, or -1.
  template <class Ref, int kN>
  __device__ __forceinline__ int set_pivot(RowSums<A, kTerms>& row, const Chunk& chunk, int last,
                                           const Ref& ref, A m, const A (&z)[kN],
                                           const A (&q)[kN]) const {
    if constexpr (!kHasPivot<kTerms>) return -1;
    A most = -infinity<A>();
#pragma unroll
    for (int k = 0; k < kN; ++k) most = k < last ? larger(most, z[k]) : most;
    // The first of several, though rows are not read in order: the classes at their ends come
    // first.
    const bool ties = kIsGeneral<kTerms> && most == row.pivot.logit && most > -infinity<A>();
    if (!(most > row.pivot.logit || (ties && chunk.first < row.pivot.index))) return -1;
    int found = -1;
    A weight = 0;
#pragma unroll
    for (int k = kN; k-- > 0;) {
      const bool is_most = k < last && z[k] == most;
      found = is_most ? k : found;
      weight = is_most ? q[k] : weight;
    }
    const bool is_target = !kHasMass<kTerms> && found == chunk.target;
    row.set_pivot({most, is_target ? A(0) : ref.exp(most), weight, chunk.first + found}, m);
    return found;
  }

  const Coefficients<A> coefficients_;
  const Cap<A> cap_;
};

}  // namespace fused_ce::cuda
