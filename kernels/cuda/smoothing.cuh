// What label smoothing, weights and class probabilities make of a row's targets.
#pragma once

#include "layout.cuh"

namespace fused_ce::cuda {

// What the loops compute: exponentials alone (class indices), or a linear sum as well.
enum class Terms { kIndices, kSmoothed, kProbabilities };

// A problem, and what its smoothing does to targets: worked out on the host, since most GPUs are
// slow at double, and would do it for each row.
template <class S>
struct SmoothedProblem : Problem {
  using A = Accumulate<S>;
  A keep, spread;  // 1 - s and s / C

  explicit SmoothedProblem(const Problem& p)
      : Problem(p),
        keep(static_cast<A>(1 - p.label_smoothing)),
        spread(p.label_smoothing > 0
                   ? static_cast<A>(p.label_smoothing / static_cast<double>(p.classes))
                   : A(0)) {}

  __device__ A sum_of_weights() const {
    return weight_sum ? static_cast<A>(*weight_sum) : static_cast<A>(classes);
  }
  __device__ __forceinline__ A smoothed(A probability) const { return probability * keep + spread; }
};

// Calls f(q) with the weights of a row's logits in the linear sum, q[k] of class c + k for first <=
// k < last: w_j, or with probabilities q_j. `t`: where the row's probabilities begin. f is compiled
// twice, the first time for weights that are known to be 1.
template <Terms kTerms, int kN, class S, class F>
__device__ __forceinline__ void with_weights_of_classes(const SmoothedProblem<S>& p, int64_t t,
                                                        int64_t c, int first, int last, F f) {
  using A = Accumulate<S>;
  constexpr bool probabilities = kTerms == Terms::kProbabilities;
  A q[kN];
#pragma unroll
  for (int k = 0; k < kN; ++k) q[k] = 1;
  if (kTerms == Terms::kIndices || (!p.weight && !probabilities)) return f(q);
  if (p.weight) {
#pragma unroll
    for (int k = 0; k < kN; ++k) {
      if (k >= first && k < last) q[k] = weight_of<A>(p, c + k);
    }
  }
  if constexpr (probabilities) {
    A target[kN];
    const int64_t stride = p.target_strides.classes;
    numbers_at(p.target, p.target_dtype, t + c * stride, stride, first, last, target);
#pragma unroll
    for (int k = 0; k < kN; ++k) q[k] *= p.smoothed(target[k]);
  }
  f(q);
}

// The same for kN neighbouring rows that lie in one plane: q[u][k] of class c + u in row k.
template <Terms kTerms, int kClasses, int kN, class S, class F>
__device__ __forceinline__ void with_weights_of_rows(const SmoothedProblem<S>& p, int64_t t,
                                                     int64_t c, F f) {
  using A = Accumulate<S>;
  constexpr bool probabilities = kTerms == Terms::kProbabilities;
  A q[kClasses][kN];
#pragma unroll
  for (int i = 0; i < kClasses * kN; ++i) q[i / kN][i % kN] = 1;
  if (kTerms == Terms::kIndices || (!p.weight && !probabilities)) return f(q);
#pragma unroll
  for (int u = 0; u < kClasses; ++u) {
    const A w = weight_of<A>(p, c + u);
#pragma unroll
    for (int k = 0; k < kN; ++k) q[u][k] = w;
    if (!probabilities) continue;
    A target[kN];
    numbers_at(p.target, p.target_dtype, t + (c + u) * p.target_strides.classes,
               p.target_strides.inner, 0, kN, target);
#pragma unroll
    for (int k = 0; k < kN; ++k) q[u][k] *= p.smoothed(target[k]);
  }
  f(q);
}

}  // namespace fused_ce::cuda
