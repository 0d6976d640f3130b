// SPDX-License-Identifier: BSD-3-Clause
// The gradient of planes: one read of the logits and one write.
#pragma once

#include "plane_tile.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

template <class S, Terms kTerms>
class PlaneGradients : PlaneTile<S, kTerms> {
  using Base = PlaneTile<S, kTerms>;
  using Base::kIndices, Base::kW, Base::padded;
  using Base::logits_after, Base::prefetch;
  using Base::open, Base::logits_at, Base::weights, Base::probabilities;
  using Base::p_, Base::objective_, Base::first_, Base::n_, Base::rows_, Base::targets_;
  using typename Base::A, typename Base::V, typename Base::I;

 public:
  explicit PlaneGradients(const Problem& problem) : Base(problem) {}

  // rows [first, first + n) of one tile
  void backward(const Backward& back, int64_t first, int n, bool streamed) {
    open(first, n);
    read_saved<S>(p_, back, first, n, padded(n), rows_, incoming_);
    objective_.factors(rows_, padded(n), incoming_, factors_);
    write(back, streamed);
  }

 private:
  void write(const Backward& back, bool streamed) {
    for (int i = 0; i < n_; i += kW) factor_[i / kW] = factors_.of_lanes(i);
    for (int64_t first = 0; first < p_.classes; first += kPlanes) {
      const int64_t left = p_.classes - first;
      if (left >= kPlanes) {
        write_planes<true>(back, first, kPlanes, streamed);
      } else {
        write_planes<false>(back, first, static_cast<int>(left), streamed);
      }
    }
  }

  template <bool kAll>
  void write_planes(const Backward& back, int64_t first, int planes, bool streamed) {
    S* grad = static_cast<S*>(back.grad_logits) + row_offset(p_, back.grad_strides, first_) +
              first * back.grad_strides.classes;
    const A* t[kPlanes] = {};
    const S* x[kPlanes];
    // Half types are converted in a loop of their own, as in row_gradients.h, and planes are
    // streamed one by one: lines of several at once leave the processor half filled.
    const bool direct = sizeof(S) == sizeof(A) && !streamed;
    A* g[kPlanes];
    for (int k = 0; k < planes; ++k) {
      x[k] = logits_at(first + k);
      g[k] = direct ? reinterpret_cast<A*>(grad + k * back.grad_strides.classes) : gradient_[k];
      if constexpr (!kIndices) t[k] = probabilities(first + k, targets_[k]);
    }
    const S* next = logits_after(first);
    const bool some_lead = !kIndices && factors_.some_lead;
    const auto gradients = [&](int i, auto load_logits, auto put) __attribute__((always_inline)) {
      prefetch(next, i);
      const Factor<S, kIsRanked<kTerms>> factor = factor_[i / kW];
      const I y = !kIndices ? I{} : load(rows_.pivot + i) - static_cast<Int<A>>(first);
      PivotFactor<A> pivot;
      if constexpr (!kIndices) pivot = factors_.pivot_of_lanes(i);
      const I counted = !kIndices ? ~I{} : load(rows_.pivot + i) >= Int<A>{kElsewhere};
      const auto finish = [&](int k, V v) __attribute__((always_inline)) {
        if constexpr (kIndices) {
          v = y == static_cast<Int<A>>(k) ? load(factors_.at_pivot + i) : v;
          v = bits_as<V>(bits_as<I>(v) & counted);
        }
        put(g[k] + i, v);
      };
      const auto one = [&](int k) __attribute__((always_inline)) {
        const V logits = load_logits(x[k] + i), q = weights(first + k, i, t[k]);
        finish(k, some_lead ? objective_.gradient(factor, pivot, logits, q)
                            : objective_.gradient(factor, logits, q));
      };
      if constexpr (!kIndices) {  // from memory, a pair takes a tenth longer
#pragma GCC unroll 4
        for (int k = 0; k < kPlanes; ++k) {
          if (!kAll && k >= planes) break;
          one(k);
        }
        return;
      }
#pragma GCC unroll 2
      for (int k = 0; k + 2 <= kPlanes; k += 2) {
        if (!kAll && k + 2 > planes) break;
        const Pair<V> logits = {load_logits(x[k] + i), load_logits(x[k + 1] + i)};
        const Pair<V> q = {weights(first + k, i, t[k]), weights(first + k + 1, i, t[k + 1])};
        const Pair<V> v = objective_.gradient(factor, logits, q);
        finish(k, v.a);
        finish(k + 1, v.b);
      }
      if (!kAll && planes % 2 == 1) one(planes - 1);
    };
    int i = 0;
    for (; i + kW <= n_; i += kW) {
      gradients(
          i, [&](const S* p) { return objective_.logits(p); }, [](A* p, V v) { store(p, v); });
    }
    if (i < n_) {
      gradients(
          i, [&](const S* p) { return objective_.logits(p, n_ - i, A(0)); },
          [&](A* p, V v) { store_partial(p, n_ - i, v); });
    }
    for (int k = 0; k < planes && !direct; ++k)
      convert(gradient_[k], grad + k * back.grad_strides.classes, n_, streamed);
  }

  Factors<S, kTerms, kPlaneTile> factors_;
  Factor<S, kIsRanked<kTerms>> factor_[kPlaneTile / kW];  // of a vector of rows each
  Incoming<kPlaneTile> incoming_;
  alignas(64) A gradient_[kPlanes][kPlaneTile];
};

}  // namespace fused_ce::cpu::FUSED_CE_ISA
