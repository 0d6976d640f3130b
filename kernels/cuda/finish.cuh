// The finish of a row: from its sums to its loss, and from its saved numbers to the factors of its
// gradient. The mirror of cpu/group.h, which has the formulas; here a thread has one row, and
// computes in the accumulate type: double would take most GPUs longer than reading the row.
#pragma once

#include "reference.cuh"
#include "sums.cuh"

namespace fused_ce::cuda {

template <class A>
struct Row {
  A reference;      // m
  Sum<A> sum;       // of exponentials, without the target's or the pivot's
  A linear;         // sum of w_j (m - x_j) (indices) or q_j (x_p - x_j), x_p the pivot's logit
  A mass;           // probabilities: sum of q_j
  A pivot_exp;      // probabilities
  int64_t target;   // class indices: -1 for ignored rows
  A target_logit;   // class indices
  A target_weight;  // class indices: 0 for ignored rows
};

template <class A, Terms kTerms>
__device__ inline Row<A> finished_sums(const RowSums<A, kTerms>& sums, A reference, int64_t target,
                                       A target_logit, A target_weight) {
  Row<A> row{reference,         sums.exponentials,      sums.linear.total(),
             sums.mass.total(), sums.pivot.exponential, target,
             target_logit,      target_weight};
  row.linear -= row.mass * sums.pivot.distance;  // the pivot's own adds nothing to this one
  row.mass += sums.pivot.weight;
  return row;
}

// A row that counts for nothing, and is harmless to compute with.
template <class A>
__device__ inline Row<A> ignored_row() {
  return {0, {1, 0}, 0, 0, 0, -1, 0, 0};
}

template <class S, Terms kTerms, class A = Accumulate<S>>
__device__ inline A loss_of(const SmoothedProblem<S>& p, const Row<A>& row) {
  using K = Constants<A>;
  if (p.classes == 0) return 0;
  // Each quotient is exact to the last bits however small the loss is.
  if constexpr (kTerms == Terms::kProbabilities)
    return row.linear + row.mass * log1p_of(quotient(row.sum, {row.pivot_exp, 0}));
  if (row.target < 0) return 0;
  const A m = row.reference;
  const Offset<S> offset = Offset<S>::of(m);
  const Sum<A> target_term = Reference<S>(offset).exp_and_rest(row.target_logit);
  const A target_exp = target_term.high, sum = row.sum.total(), total = sum + target_exp;
  // lse - m. The reference cancels against m first, while the products are still exact.
  const auto above = [&]() -> A {
    if (p.classes == 1) return m - m;  // exactly 0 or NaN
    constexpr int kHeadroom = ReferenceConstants<S>::kHeadroomBits;
    constexpr A kOne = static_cast<A>(int64_t{1} << kHeadroom);
    const A c = offset.c + kHeadroom;
    return ((offset.shift - m) + c * K::kLn2High) + (c * K::kLn2Low + log_of(total / kOne));
  };
  // The quotient fails only where e^(x_y) underflows.
  const bool representable =
      (target_exp > sum * K::kTiny && target_exp > K::kTiny) || total != total;
  const A nll =
      representable ? log1p_of(quotient(row.sum, target_term)) : above() + (m - row.target_logit);
  A loss = p.keep * row.target_weight * nll;
  if (kTerms == Terms::kSmoothed) {
    // Where the target leads, what the logarithm has lost may be all of the loss.
    const A lse = sum < target_exp ? nll + (row.target_logit - m) : above();
    loss += p.spread * (row.linear + p.sum_of_weights() * lse);
  }
  return loss;
}

// Leaves a row's numbers for backward, and its loss, where they are wanted.
template <Terms kTerms, class A>
__device__ inline void put_row(const Forward& out, int64_t i, const Row<A>& row, A loss) {
  constexpr bool indices = kTerms != Terms::kProbabilities;
  if (out.saved.reference) {
    static_cast<A*>(out.saved.reference)[i] = row.reference;
    static_cast<A*>(out.saved.sum)[i] = row.sum.total() + row.pivot_exp;
    static_cast<A*>(out.saved.target_or_mass)[i] = indices ? row.target_logit : row.mass;
  }
  if (out.loss) put_number<A>(out.loss, out.loss_dtype, i, loss);
}

// Cuts x into a number in [1/2, 1) and an exponent. 0, subnormal, infinite and NaN numbers stay
// whole.
template <class A>
__device__ inline A split(A x, A* exponent) {
  using K = Constants<A>;
  constexpr Int<A> kField = 2 * K::kBias + 1;
  const Int<A> bits = bits_of(x), field = (bits >> K::kMantissaBits) & kField;
  if (field == 0 || field == kField) {
    *exponent = 0;
    return x;
  }
  *exponent = static_cast<A>(field - (K::kBias - 1));
  return from_bits((bits & ~(kField << K::kMantissaBits)) |
                   (static_cast<Int<A>>(K::kBias - 1) << K::kMantissaBits));
}

// g * mass * p_j = factor * e^x_j, relative to `offset`.
template <class S>
struct Factors {
  using A = Accumulate<S>;
  Offset<S> offset;
  A factor;        // in [1/2, 1), its exponent is in offset.c: nothing can over- or underflow
  A grad;          // probabilities: g. class indices: g * s / C
  int64_t target;  // -1: probabilities, and ignored rows
  A at_target;     // class indices: the gradient at the target's class
  bool counts;     // whether the row is not ignored
};

template <class S, Terms kTerms, class A = Accumulate<S>>
__device__ inline Factors<S> factors_of(const SmoothedProblem<S>& p, const Backward& back,
                                        int64_t i) {
  constexpr bool indices = kTerms != Terms::kProbabilities;
  const A m = static_cast<const A*>(back.saved.reference)[i];
  const A sum = static_cast<const A*>(back.saved.sum)[i];
  const A third = static_cast<const A*>(back.saved.target_or_mass)[i];
  const A g = read_grad<A>(back, i);
  const int64_t y = target_of(p, i);
  const A w = y >= 0 ? weight_of<A>(p, y) : A(0);

  Factors<S> f{Offset<S>::of(m), 0, g, y, 0, !indices || y >= 0};
  Sum<A> total;
  if constexpr (indices) total = Reference<S>(f.offset).exp_and_rest(third);
  const A target_exp = total.high;
  total.add(sum);
  const A weight_sum = kTerms == Terms::kSmoothed ? p.sum_of_weights() : A(0);
  const A mass = indices ? p.keep * w + p.spread * weight_sum : third;
  A by_total, by_factor;
  const A scaled = g * mass / split(total.total(), &by_total);
  f.factor = split(scaled, &by_factor);
  f.offset.c += by_total - by_factor;
  if (indices) {
    f.grad = g * p.spread;
    // p_y - 1 is minus the other classes' share: no cancellation.
    f.at_target = -g * p.keep * w * quotient({sum, 0}, total);
    if (kTerms == Terms::kSmoothed)
      f.at_target += f.grad * (weight_sum * (target_exp / total.total()) - w);
  }
  if (p.classes == 1) {
    f.factor = f.at_target = m - m;  // exactly 0 or NaN
    f.grad = 0;
  }
  return f;
}

// The gradient of a class, the target or another. `q`: the weight of its logit in the linear sum.
template <class S, Terms kTerms, class A = Accumulate<S>>
__device__ __forceinline__ A gradient(const Reference<S>& ref, const Factors<S>& f, bool is_target,
                                      A x, A q) {
  A v = ref.exp(x, f.factor);
  if (kTerms != Terms::kIndices) v -= f.grad * q;
  v = is_target ? f.at_target : v;
  return f.counts ? v : A(0);
}

}  // namespace fused_ce::cuda
