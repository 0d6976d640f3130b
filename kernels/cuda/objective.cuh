// What is computed of a row, the one thing that every loop holds: what a logit is, what a row is
// held against, what a class adds to the row's sums, how the row ends, and what a class gets back.
// Loops know where logits lie and in which order to take them, and nothing else. The mirror of
// cpu/objective.h.
#pragma once

#include "finish.cuh"

namespace fused_ce::cuda {

// An argument of the kernels, by value.
template <class S, Terms kTerms>
class Objective {
  using A = Accumulate<S>;

 public:
  const Problem problem;

  explicit Objective(const Problem& p) : problem(p), smoothing_(p) {}

  // ---- A logit: what becomes of a number in memory before anything is computed with it.

  __device__ __forceinline__ A logit(S x) const { return get(x); }

  // ---- What a row is held against.

  // The class, or why there is none.
  __device__ __forceinline__ int64_t target(int64_t row) const {
    if constexpr (kHasMass<kTerms>) return kMixed;
    return read_target(problem, row);
  }
  __device__ __forceinline__ bool counts(int64_t y) const {
    return kHasMass<kTerms> || is_class(y);
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
  // What the target weighs.
  __device__ __forceinline__ A target_weight(int64_t y) const {
    return is_class(y) ? class_weight(y) : A(0);
  }

  // Calls f(q) with the weights of a row's logits, q[k] of class c + k for first <= k < last. `t`:
  // where the row's probabilities begin. f is compiled twice, the first time for weights that are
  // known to be 1.
  template <int kN, class F>
  __device__ __forceinline__ void with_weights(int64_t t, int64_t c, int first, int last,
                                               F f) const {
    A q[kN];
#pragma unroll
    for (int k = 0; k < kN; ++k) q[k] = 1;
    if (all_weigh_the_same()) return f(q);
    if (problem.weight) {
#pragma unroll
      for (int k = 0; k < kN; ++k) {
        if (k >= first && k < last) q[k] = class_weight(c + k);
      }
    }
    if constexpr (kHasMass<kTerms>) {
      A target[kN];
      const int64_t stride = problem.target_strides.classes;
      numbers_at(problem.target, problem.target_dtype, t + c * stride, stride, first, last, target);
#pragma unroll
      for (int k = 0; k < kN; ++k) q[k] *= smoothing_.smoothed(target[k]);
    }
    f(q);
  }
  // The same for kN neighbouring rows that lie in one plane: q[u][k] of class c + u in row k.
  template <int kClasses, int kN, class F>
  __device__ __forceinline__ void with_weights_of_rows(int64_t t, int64_t c, F f) const {
    A q[kClasses][kN];
#pragma unroll
    for (int i = 0; i < kClasses * kN; ++i) q[i / kN][i % kN] = 1;
    if (all_weigh_the_same()) return f(q);
#pragma unroll
    for (int u = 0; u < kClasses; ++u) {
      const A w = class_weight(c + u);
#pragma unroll
      for (int k = 0; k < kN; ++k) q[u][k] = w;
      if (!kHasMass<kTerms>) continue;
      A target[kN];
      numbers_at(problem.target, problem.target_dtype, t + (c + u) * problem.target_strides.classes,
                 problem.target_strides.inner, 0, kN, target);
#pragma unroll
      for (int k = 0; k < kN; ++k) q[u][k] *= smoothing_.smoothed(target[k]);
    }
    f(q);
  }

  // ---- What a class adds: the k-th of a chunk, with logit x, to a few classes' sums, or in their
  // place what it drives out of the row's. `ref` is the reference m.

  __device__ __forceinline__ void add_term(RowSums<A, kTerms>& row, Sums<A, kTerms>& some,
                                           const Chunk& chunk, int k, const Reference<S>& ref, A m,
                                           A x, A q) const {
    some.add(k, row.entering({ref.exp(x), x, q}, k == chunk.target), m);
  }

  // ---- How a row ends.

  // y: the row's target, or a NoClass.
  __device__ RowState<A> state(const RowSums<A, kTerms>& sums, A m, int64_t y,
                               A target_logit) const {
    return state_of(sums, m, y, target_logit, target_weight(y));
  }
  // The loss.
  __device__ A finish(const RowState<A>& row) const { return loss_of<S, kTerms>(smoothing_, row); }
  // What backward will need.
  __device__ SavedRow<A> saved(const RowState<A>& row) const { return saved_of<S, kTerms>(row); }
  __device__ Factors<S> factors(const Backward& back, int64_t row) const {
    const int64_t y = target(row);
    return factors_of<S, kTerms>(smoothing_, SavedRow<A>::of(back.saved, row), y, target_weight(y),
                                 read_grad<A>(back, row));
  }

  // ---- What a class gets back: the k-th of a chunk, with logit x.

  __device__ __forceinline__ A gradient(const Reference<S>& ref, const Factors<S>& f,
                                        const Chunk& chunk, int k, A x, A q) const {
    return gradient_of<S, kTerms>(ref, f, k == chunk.target, x, q);
  }

 private:
  __device__ __forceinline__ bool all_weigh_the_same() const {
    return !kHasLinear<kTerms> || (!kHasMass<kTerms> && !problem.weight);
  }

  const Smoothing<A> smoothing_;
};

}  // namespace fused_ce::cuda
