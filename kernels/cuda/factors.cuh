// SPDX-License-Identifier: BSD-3-Clause
// The gradient: from a row's saved numbers to its factors, and from those to what a class gets.
// With the gradients g of the loss, r of lse (that of a z-loss among it) and h of the entropy,
// whose mean gap below the largest logit z_k is G,
//   dz_j = p_j (g mass + r + h ((z_k - z_j) - G)) - g q_j.
// Where p_j is near 1 the loss's part would cancel: there it is g ((mass - q_j) p_j - q_j (1 -
// p_j)), and 1 - p_j is the other classes' share.
#pragma once

#include "finish.cuh"

namespace fused_ce::cuda {

// Gradients by numbers in memory: the factor between them and z is part of all but `offset`.
template <class S>
struct Factors {
  using A = Accumulate<S>;
  Offset<S> offset;
  A factor;  // p_j (g mass + r - h G) = factor * e^z_j, relative to `offset`; in [1/2, 1), its
             // exponent is in offset.c: nothing can over- or underflow
  A grad;    // probabilities: g. class indices: g * s / C
  // Class indices.
  int64_t target;  // the class, or why there is none
  A at_target;     // the gradient at the target's class
  bool counts;     // whether the row does
  // Probabilities. The pivot is known by its logit. Classes that tie are all taken for it, and
  // rightly: each of them has the same others.
  A pivot_logit, mass;
  A grad_own, grad_others;  // g * p of the pivot, and g * (1 - p)
  A rest_own;               // (r - h G) * p of the pivot
  // General: p_j h (z_k - z_j) = entropy * (x_k - x_j) * e^z_j, and no factor is in [1/2, 1).
  A entropy, largest;
};

// What backward is given of a row, as gradients by its z's, times s.
template <class A>
struct RowGrads {
  A loss, lse, entropy;
};

template <class S, Terms kTerms, class A = Accumulate<S>>
__device__ inline RowGrads<A> grads_of(const Coefficients<A>& k, const Problem& p,
                                       const Backward& back, const SavedRow<A>& saved,
                                       int64_t row) {
  const A s = k.scale.s, weight = s * row_weight_of<A>(p, row);
  const A loss = weight * read_grad<A>(back, back.grad, row);
  A lse = back.grad_lse ? s * static_cast<const A*>(back.grad_lse)[row] : A(0);
  if (k.z_loss_weight != 0) {
    RowState<A> state{saved.reference, {saved.sum, 0}, 0, 0, 0, saved.target_or_mass, 0, 0};
    if constexpr (kHasMass<kTerms>) {
      const Offset<S> offset = Offset<S>::of(saved.reference, k.scale);
      state.pivot_logit = saved.reference;
      state.pivot_exp = Reference<S>(offset, k.scale).exp(saved.reference);
    }
    const Logarithms<S, kTerms> logs(k.scale, state);
    const A z_loss = weight * read_grad<A>(back, back.grad_z_loss, row);
    lse += (loss + z_loss) * (2 * k.z_loss_weight * logs.lse(logs.nll(), A(0)));
  }
  const bool has_entropy = kIsGeneral<kTerms> && back.grad_entropy;
  return {loss, lse, has_entropy ? s * static_cast<const A*>(back.grad_entropy)[row] : A(0)};
}

// The distance of a logit below the largest one, where it is of use to anyone: further below, a
// logit's p is 0.
template <class A>
__device__ __forceinline__ A below(const Coefficients<A>& k, A largest, A x) {
  return smaller(largest - x, k.scale.largest);
}

// y: the row's target, or a NoClass; w: what the target weighs, 0 if there is none; gap: G.
template <class S, Terms kTerms, class A = Accumulate<S>>
__device__ inline Factors<S> factors_of(const Coefficients<A>& k, const SavedRow<A>& saved, A gap,
                                        int64_t y, A w, const RowGrads<A>& grads) {
  constexpr bool indices = !kHasMass<kTerms>;
  const A g = grads.loss, sum = saved.sum;
  const A pivot_logit = indices ? saved.target_or_mass : saved.reference;
  Factors<S> f{};
  f.offset = Offset<S>::of(saved.reference, k.scale);
  f.target = y;
  f.counts = !indices || is_any_class(y);
  Sum<A> total = Reference<S>(f.offset, k.scale).exp_and_rest(pivot_logit);
  const A pivot_exp = total.high;
  total.add(sum);
  const A all = total.total(), own = pivot_exp / all;
  const A weight_sum = indices && kHasLinear<kTerms> ? k.sum_of_weights() : A(0);
  const Scaled<A> others = quotient(Scaled<A>::of(sum), total);
  const Scaled<A> grad = Scaled<A>::of(g);
  const Scaled<A> mass =
      Scaled<A>::of(indices ? k.keep * w + k.spread * weight_sum : saved.target_or_mass);
  A rest = grads.lse;
  if constexpr (kIsGeneral<kTerms>) rest -= grads.entropy * gap;
  Scaled<A> factor = grad * mass;
  if (rest != 0) factor = factor + Scaled<A>::of(rest);
  factor = (factor / Scaled<A>::of(all)).normalized();
  if constexpr (kIsGeneral<kTerms>) {
    // Both factors have one exponent. h's is taken for as many bits larger as a distance has that
    // leaves p_j a number, so that their product does not underflow before it has to.
    constexpr A kDistanceBits = 10;
    const Scaled<A> h = (Scaled<A>::of(grads.entropy) / Scaled<A>::of(all)).normalized();
    const A exponent = h.mantissa == 0        ? factor.exponent
                       : factor.mantissa == 0 ? h.exponent + kDistanceBits
                                              : larger(factor.exponent, h.exponent + kDistanceBits);
    f.entropy = Scaled<A>{h.mantissa, h.exponent - exponent}.value() * k.scale.s;
    factor = {Scaled<A>{factor.mantissa, factor.exponent - exponent}.value(), exponent};
    f.largest = saved.reference;
  }
  f.factor = factor.mantissa;
  f.offset.c -= factor.exponent;
  if constexpr (indices) {
    f.at_target = -(grad * Scaled<A>::of(k.keep * w) * others).value();
    if constexpr (kHasLinear<kTerms>) {
      f.grad = g * k.spread;
      f.at_target += f.grad * (weight_sum * own - w);
    }
    if constexpr (kIsGeneral<kTerms>)
      rest += grads.entropy * (k.scale.s * below(k, saved.reference, pivot_logit));
    f.at_target += rest * own;
  } else {
    f.grad = g;
    f.pivot_logit = pivot_logit;
    f.mass = saved.target_or_mass;
    f.grad_own = g * own;
    f.grad_others = (grad * others).value();
    f.rest_own = rest * own;
  }
  if (k.classes == 1) {
    f.factor = f.grad_own = f.grad_others = all - all;  // exactly 0 or NaN
    f.at_target = f.rest_own = rest + f.factor;
    f.grad = f.entropy = 0;
  }
  return f;
}

// The gradient of a class, but for the target's. `q`: the weight of its logit in the linear sum.
template <class S, Terms kTerms, class Ref, class A = Accumulate<S>>
__device__ __forceinline__ A gradient_of(const Coefficients<A>& k, const Ref& ref,
                                         const Factors<S>& f, A x, A q) {
  A factor = f.factor;
  if constexpr (kIsGeneral<kTerms>) factor = fma_of(f.entropy, below(k, f.largest, x), factor);
  A v = ref.exp(x, factor);
  if (kHasLinear<kTerms>) v -= f.grad * q;
  if constexpr (kHasMass<kTerms>) {
    // mass - q has the rounding errors of the saved mass. One-hot probabilities' has none: what is
    // left is as exact as beside a class index. Beside others, the errors are those that a sum of
    // the row's q has, times p.
    return x == f.pivot_logit ? (f.mass - q) * f.grad_own + (f.rest_own - q * f.grad_others) : v;
  }
  return v;
}

}  // namespace fused_ce::cuda
