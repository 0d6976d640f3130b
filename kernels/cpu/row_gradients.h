// SPDX-License-Identifier: BSD-3-Clause
// The gradients of rows of many classes: one read of the logits and one write.
#pragma once

#include "blocks.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

// Rows of fewer bytes are not streamed: the target's gradient, stored last, has to fetch its line
// from memory again, which costs as much as streaming saves on so long a row.
inline constexpr int64_t kStreamedRowBytes = 16384;

template <class S, Terms kTerms>
class RowGradients : Blocks<S, kTerms> {
  using Base = Blocks<S, kTerms>;
  using Base::block, Base::block_size, Base::first_of, Base::probabilities, Base::row;
  using Base::kBlock, Base::kW;
  using Base::p_, Base::objective_;
  using typename Base::A, typename Base::V;
  static constexpr bool kIndices = Objective<S, kTerms>::kIndices;

 public:
  explicit RowGradients(const Problem& problem) : Base(problem) {}

  void backward(const Backward& back, int64_t begin, int64_t end, bool streamed) {
    streamed_ = streamed && p_.classes * static_cast<int64_t>(sizeof(S)) >= kStreamedRowBytes;
    for (int64_t first = begin; first < end; first += kRowTile) {
      const int n = static_cast<int>(end - first < kRowTile ? end - first : kRowTile);
      const int padded = (n + kW - 1) / kW * kW;
      if (kIndices) read_targets(p_, first, n, padded, rows_);
      read_saved<S>(p_, back, first, n, padded, rows_, incoming_);
      objective_.factors(rows_, n, incoming_, factors_);
      for (int i = 0; i < n; ++i) write_row(back, first + i, i);
    }
  }

 private:
  void write_row(const Backward& back, int64_t row, int i) {
    const S* x_row = this->row(row);
    S* g_row = static_cast<S*>(back.grad_logits) + row_offset(p_, back.grad_strides, row);
    const int64_t stride = back.grad_strides.classes;
    const bool counts = !kIndices || rows_.counts(i);
    if constexpr (!kIndices) find_pivot(x_row, row, i);
    const Factor<S, kIsRanked<kTerms>> factor = factors_.of_row(i);
    for (int64_t b = 0; b < p_.classes; b += kBlock) {
      const int n = block_size(p_.classes - b);
      if (!counts) {
        __builtin_memset(gradient_, 0, static_cast<size_t>(n) * sizeof(A));
        put_block(gradient_, g_row + b * stride, stride, n, streamed_);
        continue;
      }
      const S* x = block(x_row, b, n);
      const A* t = probabilities(row, b, n);
      if constexpr (sizeof(S) == sizeof(A)) {
        if (stride == 1) {
          A* g = g_row + b;
          if (streamed_) {
            write_block<kSecondCache>(x, b, t, n, factor, g, lanes_to_alignment(g),
                                      [](A* p, V v) { stream(p, v); });
          } else {
            write_block<kFirstCache>(x, b, t, n, factor, g, 0, [](A* p, V v) { store(p, v); });
          }
          continue;
        }
      }
      // Conversion is a loop of its own: behind an exponential, it would be one more thing for the
      // processor's window to hold.
      write_block<kFirstCache>(x, b, t, n, factor, gradient_, 0, [](A* p, V v) { store(p, v); });
      put_block(gradient_, g_row + b * stride, stride, n, streamed_);
    }
    if (rows_.has_pivot(i)) put(g_row + rows_.pivot[i] * stride, factors_.at_pivot[i]);
  }

  // Beside probabilities: the pivot, if it leads and needs a gradient of its own.
  void find_pivot(const S* x_row, int64_t row, int i) {
    const PivotFactor<A> pivot = factors_.pivot_of_row(i);
    const A logit = pivot.logit[0];
    rows_.pivot[i] = kMixed;
    if (logit != logit) return;
    const int c = first_of(x_row, logit);
    // None has it where these are not the very logits that forward saw.
    if (objective_.logit(x_row + c * p_.logits_strides.classes) != logit) return;
    rows_.pivot[i] = c;
    const A target = *probabilities(row, c, 1);
    const V q = objective_.weight_of(c, splat(target));
    factors_.at_pivot[i] = (pivot.gradient(q) + pivot.more)[0];
  }

  // The gradient of n neighbouring logits, which may be written over them. Whole vectors from g +
  // head on go through put_whole; the lanes before and after them are written with vectors that
  // overlap those, and are computed before there is anything but logits to be read.
  template <int kCache, class F>
  FUSED_CE_INLINE void write_block(const S* x, int64_t b, const A* t, int n,
                                   const Factor<S, kIsRanked<kTerms>>& factor, A* g, int head,
                                   F put_whole) {
    const auto weights = [&](int j) __attribute__((always_inline)) {
      return objective_.weights(b + j, kHasMass<kTerms> ? t + j : t);
    };
    const auto whole = [&](int j) __attribute__((always_inline)) {
      return objective_.gradient(factor, objective_.logits(x + j), weights(j));
    };
    if (n < kW) {
      const V q = objective_.weights(b, t, n);
      store_partial(g, n, objective_.gradient(factor, objective_.logits(x, n, A(0)), q));
      return;
    }
    const bool tail = (n - head) % kW != 0;
    V first{}, last{};
    if (head > 0) first = whole(0);
    if (tail) last = whole(n - kW);
    int j = head;
    for (; j + kUnroll * kW <= n; j += kUnroll * kW) {
#pragma GCC unroll 4
      for (int u = 0; u < kUnroll; u += 2) {
        const int at = j + u * kW;
        prefetch<kCache>(x + j, u * kW);
        prefetch<kCache>(x + j, (u + 1) * kW);
        const Pair<V> logits = {objective_.logits(x + at), objective_.logits(x + at + kW)};
        const Pair<V> q = {weights(at), weights(at + kW)};
        const Pair<V> v = objective_.gradient(factor, logits, q);
        put_whole(g + at, v.a);
        put_whole(g + at + kW, v.b);
      }
    }
    for (; j + kW <= n; j += kW) put_whole(g + j, whole(j));
    if (head > 0) store_partial(g, head, first);
    if (tail) store(g + n - kW, last);
  }

  // Writes a block of gradients where it belongs.
  static void put_block(const A* from, S* to, int64_t stride, int n, bool streamed) {
    if (stride == 1) return convert(from, to, n, streamed);
    for (int j = 0; j < n; ++j) put(to + j * stride, from[j]);
  }

  bool streamed_ = false;
  RowStates<A, kTerms, kRowTile> rows_;
  Factors<S, kTerms, kRowTile> factors_;
  Incoming<kRowTile> incoming_;
  alignas(64) A gradient_[kBlock];
};

}  // namespace fused_ce::cpu::FUSED_CE_ISA
