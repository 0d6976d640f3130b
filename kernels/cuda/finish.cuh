// The finish of a row: from its state to its loss, and from its saved numbers to the factors of its
// gradient. The mirror of cpu/finish.h, which has the formulas; here a thread has one row, and
// computes in the accumulate type: double would take most GPUs longer than reading the row.
#pragma once

#include "state.cuh"

namespace fused_ce::cuda {

// What smoothing does to targets: worked out on the host, since most GPUs are slow at double, and
// would do it for each row.
template <class A>
struct Smoothing {
  A keep, spread;  // 1 - s and s / C
  const double* weight_sum;
  int64_t classes;

  explicit Smoothing(const Problem& p)
      : keep(static_cast<A>(1 - p.label_smoothing)),
        spread(p.label_smoothing > 0
                   ? static_cast<A>(p.label_smoothing / static_cast<double>(p.classes))
                   : A(0)),
        weight_sum(p.weight_sum),
        classes(p.classes) {}

  __device__ A sum_of_weights() const {
    return weight_sum ? static_cast<A>(*weight_sum) : static_cast<A>(classes);
  }
  __device__ __forceinline__ A smoothed(A probability) const { return probability * keep + spread; }
};

template <class S, Terms kTerms, class A = Accumulate<S>>
__device__ inline A loss_of(const Smoothing<A>& smoothing, const RowState<A>& row) {
  using K = Constants<A>;
  // An empty sum; smoothed, torch multiplies it by s / 0.
  if (smoothing.classes == 0) return kTerms == Terms::kSmoothed ? smoothing.spread * A(0) : A(0);
  // Each quotient is exact to the last bits however small the loss is.
  if constexpr (kHasMass<kTerms>)
    return row.linear + row.mass * log1p_of(quotient(row.sum, {row.pivot_exp, 0}));
  if (!is_class(row.target)) return 0;
  const A m = row.reference;
  const Offset<S> offset = Offset<S>::of(m);
  const Sum<A> target_term = Reference<S>(offset).exp_and_rest(row.pivot_logit);
  const A target_exp = target_term.high, sum = row.sum.total(), total = sum + target_exp;
  // lse - m. The reference cancels against m first, while the products are still exact.
  const auto above = [&]() -> A {
    if (smoothing.classes == 1) return m - m;  // exactly 0 or NaN
    constexpr int kHeadroom = ReferenceConstants<S>::kHeadroomBits;
    constexpr A kOne = static_cast<A>(int64_t{1} << kHeadroom);
    const A c = offset.c + kHeadroom;
    return ((offset.shift - m) + c * K::kLn2High) + (c * K::kLn2Low + log_of(total / kOne));
  };
  // The quotient fails only where e^(x_y) underflows.
  const bool representable =
      (target_exp > sum * K::kTiny && target_exp > K::kTiny) || total != total;
  const A nll =
      representable ? log1p_of(quotient(row.sum, target_term)) : above() + (m - row.pivot_logit);
  A loss = smoothing.keep * row.target_weight * nll;
  if (kTerms == Terms::kSmoothed) {
    // Where the target leads, what the logarithm has lost may be all of the loss.
    const A lse = sum < target_exp ? nll + (row.pivot_logit - m) : above();
    loss += smoothing.spread * (row.linear + smoothing.sum_of_weights() * lse);
  }
  return loss;
}

// What is left of a row for backward. Beside probabilities the pivot's logit becomes the reference,
// by which backward knows the pivot again, and the sum is made relative to it: by the quotient of
// two exponentials of one logit, a power of two where neither was relative to a shift.
template <class S, Terms kTerms, class A = Accumulate<S>>
__device__ inline SavedRow<A> saved_of(const RowState<A>& row) {
  const A others = row.sum.total(), x = row.pivot_logit;
  if constexpr (!kHasMass<kTerms>) return {row.reference, others, x};
  const A pivot_exp = Reference<S>(Offset<S>::of(x)).exp(x);
  return {x, others * (pivot_exp / row.pivot_exp), row.mass};
}

// The gradient of a row's loss times g is g (mass p_j - q_j). Where p_j is near 1 that would
// cancel: there it is g ((mass - q_j) p_j - q_j (1 - p_j)), and 1 - p_j is the other classes'
// share.
template <class S>
struct Factors {
  using A = Accumulate<S>;
  Offset<S> offset;
  A factor;  // g * mass * p_j = factor * e^x_j, relative to `offset`; in [1/2, 1), its exponent is
             // in offset.c: nothing can over- or underflow
  A grad;    // probabilities: g. class indices: g * s / C
  // Class indices.
  int64_t target;  // the class, or why there is none
  A at_target;     // the gradient at the target's class
  bool counts;     // whether the row does
  // Probabilities. The pivot is known by its logit. Classes that tie are all taken for it, and
  // rightly: each of them has the same others.
  A pivot_logit, mass;
  A grad_own, grad_others;  // g * p of the pivot, and g * (1 - p)
};

// y: the row's target, or a NoClass; w: what that class weighs, 0 if there is none; g: the gradient
// of the row's loss.
template <class S, Terms kTerms, class A = Accumulate<S>>
__device__ inline Factors<S> factors_of(const Smoothing<A>& smoothing, const SavedRow<A>& saved,
                                        int64_t y, A w, A g) {
  constexpr bool indices = !kHasMass<kTerms>;
  const A sum = saved.sum, pivot_logit = indices ? saved.target_or_mass : saved.reference;
  Factors<S> f{};
  f.offset = Offset<S>::of(saved.reference);
  f.target = y;
  f.counts = !indices || is_class(y);
  Sum<A> total = Reference<S>(f.offset).exp_and_rest(pivot_logit);
  const A pivot_exp = total.high;
  total.add(sum);
  const A all = total.total(), own = pivot_exp / all;
  const A weight_sum = kTerms == Terms::kSmoothed ? smoothing.sum_of_weights() : A(0);
  const Scaled<A> others = quotient(Scaled<A>::of(sum), total);
  const Scaled<A> grad = Scaled<A>::of(g);
  const Scaled<A> mass = Scaled<A>::of(indices ? smoothing.keep * w + smoothing.spread * weight_sum
                                               : saved.target_or_mass);
  const Scaled<A> factor = (grad * mass / Scaled<A>::of(all)).normalized();
  f.factor = factor.mantissa;
  f.offset.c -= factor.exponent;
  if constexpr (kTerms == Terms::kIndices) {
    f.at_target = -(grad * mass * others).value();
  } else if constexpr (kTerms == Terms::kSmoothed) {
    f.grad = g * smoothing.spread;
    f.at_target =
        g * (smoothing.spread * (weight_sum * own - w) - smoothing.keep * w * others.value());
  } else {
    f.grad = g;
    f.pivot_logit = pivot_logit;
    f.mass = saved.target_or_mass;
    f.grad_own = g * own;
    f.grad_others = (grad * others).value();
  }
  if (smoothing.classes == 1) {
    f.factor = f.at_target = f.grad_own = f.grad_others = all - all;  // exactly 0 or NaN
    f.grad = 0;
  }
  return f;
}

// The gradient of a class, the target or another. `q`: the weight of its logit in the linear sum.
template <class S, Terms kTerms, class A = Accumulate<S>>
__device__ __forceinline__ A gradient_of(const Reference<S>& ref, const Factors<S>& f,
                                         bool is_target, A x, A q) {
  A v = ref.exp(x, f.factor);
  if (kHasLinear<kTerms>) v -= f.grad * q;
  if constexpr (kHasMass<kTerms>) {
    // mass - q has the rounding errors of the saved mass. One-hot probabilities' has none: what is
    // left is as exact as beside a class index. Beside others, the errors are those that a sum of
    // the row's q has, times p.
    return x == f.pivot_logit ? (f.mass - q) * f.grad_own - q * f.grad_others : v;
  }
  v = is_target ? f.at_target : v;
  return f.counts ? v : A(0);
}

}  // namespace fused_ce::cuda
