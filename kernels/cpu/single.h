// SPDX-License-Identifier: BSD-3-Clause
// Rows of one class: p is exactly 1, and loss and gradient are exactly 0, or no number where a
// logit, a probability or a weight is infinite or none. There is no exponential to compute, and
// nothing that backward would need of forward.
#pragma once

#include "results.h"
#include "targets.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

template <class S, Terms kTerms>
class Single {
  using A = Accumulate<S>;
  using V = Vec<A>;
  static constexpr bool kIndices = Objective<S, kTerms>::kIndices;
  static constexpr int kW = kLanes<A>;
  static constexpr int kTile = 512;  // rows

 public:
  explicit Single(const Problem& problem) : p_(problem), objective_(problem) {}

  Partial forward(const Forward& out, int64_t begin, int64_t end) {
    TaskSums sums;
    for (int64_t first = begin; first < end; first += kTile) {
      const int n = static_cast<int>(smaller<int64_t>(end - first, kTile));
      sums.note(open(first, n));
      for (int i = 0; i < n; i += kLanes<double>) {
        const Vec<double> x = lanes(logits_, i);
        store(loss_ + i, lanes(rows_.target_weight, i) * (x - x));
      }
      if constexpr (kIndices) {
        for (int i = 0; i < n; ++i) loss_[i] = rows_.counts(i) ? loss_[i] : 0;
        sums.add(p_, loss_, rows_.target_weight, n);
      } else {
        sums.loss.add(loss_, n);
      }
      if (out.loss) put_losses(out.loss, out.loss_dtype, loss_, first, n);
    }
    return sums.partial();
  }

  void backward(const Backward& back, int64_t begin, int64_t end, bool /*streamed*/) {
    for (int64_t first = begin; first < end; first += kTile) {
      const int n = static_cast<int>(smaller<int64_t>(end - first, kTile));
      open(first, n);
      for (int i = 0; i < n; i += kW) {
        const V x = load(logits_ + i);
        V g = x - x;
        if constexpr (!kIndices) {
          g -= load(weights_ + i) * A(0);
        } else {
          g = load(rows_.pivot + i) < 0 ? V{} : g;
        }
        store(logits_ + i, g);
      }
      put_gradient(back, first, n);
    }
  }

 private:
  // Reads the logits of n rows, and what each weighs. Returns the first bad row.
  int64_t open(int64_t first, int n) {
    gather_rows(p_.logits, p_.dtype, p_.logits_strides, first, n, logits_);
    if constexpr (kIndices) return read_targets(p_, first, n, kTile, rows_);
    gather_rows(p_.target, p_.target_dtype, p_.target_strides, first, n, weights_);
    for (int i = 0; i < n; i += kW)
      store(weights_ + i, objective_.weight_of(0, load(weights_ + i)));
    for (int i = 0; i < n; ++i) rows_.target_weight[i] = static_cast<double>(weights_[i]);
    return kNoBadRow;
  }

  // f(i, run, row): `run` rows from the i-th of `n` on are as far apart as `inner` rows are.
  template <class F>
  void for_runs(int64_t first, int n, F f) const {
    if (p_.inner == 1) return f(0, n, first);
    for (int i = 0; i < n;) {
      const int64_t row = first + i;
      const int run = static_cast<int>(smaller<int64_t>(n - i, p_.inner - row % p_.inner));
      f(i, run, row);
      i += run;
    }
  }
  int64_t step(const Strides& s) const { return p_.inner == 1 ? s.outer : s.inner; }

  void gather_rows(const void* base, DType dtype, const Strides& s, int64_t first, int n, A* to) {
    for_runs(first, n, [&](int i, int run, int64_t row) {
      const A* found = gather<A>(base, dtype, row_offset(p_, s, row), step(s), run, to + i);
      if (found != to + i) __builtin_memcpy(to + i, found, static_cast<size_t>(run) * sizeof(A));
    });
  }

  void put_gradient(const Backward& back, int64_t first, int n) const {
    const int64_t stride = step(back.grad_strides);
    for_runs(first, n, [&](int i, int run, int64_t row) {
      S* to = static_cast<S*>(back.grad_logits) + row_offset(p_, back.grad_strides, row);
      if (stride == 1) return convert(logits_ + i, to, run, /*streamed=*/false);
      for (int k = 0; k < run; ++k) put(to + k * stride, logits_[i + k]);
    });
  }

  const Problem& p_;
  const Objective<S, kTerms> objective_;
  Pivots<A, kTile> rows_;             // probabilities: the weight is q
  alignas(64) A logits_[kTile] = {};  // backward: their gradients
  alignas(64) A weights_[kTile] = {};
  alignas(64) double loss_[kTile];
};

}  // namespace fused_ce::cpu::FUSED_CE_ISA
