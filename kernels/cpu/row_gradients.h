// The gradients of rows of many classes: one read of the logits and one write.
#pragma once

#include "blocks.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

// Rows of fewer bytes are not streamed: the target's gradient, stored last, has to fetch its line
// from memory again, which costs as much as streaming saves on so long a row.
inline constexpr int64_t kStreamedRowBytes = 16384;

template <class S>
class RowGradients : Blocks<S> {
  using Base = Blocks<S>;
  using Base::block, Base::block_size, Base::probabilities, Base::row;
  using Base::kBlock, Base::kW;
  using Base::p_, Base::smoothing_, Base::mixing_, Base::weight_;
  using typename Base::A, typename Base::V;

 public:
  explicit RowGradients(const Problem& problem) : Base(problem) {}

  template <Terms kTerms>
  void backward(const Backward& out, int64_t begin, int64_t end, bool streamed) {
    streamed_ = streamed && p_.classes * static_cast<int64_t>(sizeof(S)) >= kStreamedRowBytes;
    constexpr bool kIndices = kTerms != Terms::kProbabilities;
    for (int64_t first = begin; first < end; first += kRowGroup) {
      const int n = static_cast<int>(end - first < kRowGroup ? end - first : kRowGroup);
      const int padded = (n + kW - 1) / kW * kW;
      if (kIndices) read_targets<A>(p_, first, n, padded, group_);
      read_saved<A, kIndices>(out, first, n, padded, group_, grad_);
      finish_backward<S, kIndices>(group_, n, smoothing_, grad_, factors_);
      for (int i = 0; i < n; ++i) write_row<kTerms>(out, first + i, i);
    }
  }

 private:
  template <Terms kTerms>
  void write_row(const Backward& out, int64_t row, int i) {
    const S* x_row = this->row(row);
    S* g_row = static_cast<S*>(out.grad_logits) + row_offset(p_, out.grad_strides, row);
    const int64_t stride = out.grad_strides.classes;
    const bool ignored = kTerms != Terms::kProbabilities && group_.pivot[i] < 0;
    const Reference<S> ref(splat(factors_.shift[i]), splat(factors_.c[i]), factors_.shifted);
    for (int64_t b = 0; b < p_.classes; b += kBlock) {
      const int n = block_size(p_.classes - b);
      if (ignored) {
        __builtin_memset(gradient_, 0, static_cast<size_t>(n) * sizeof(A));
        put_block(gradient_, g_row + b * stride, stride, n, streamed_);
        continue;
      }
      const S* x = block(x_row, b, n);
      const A* t = kTerms == Terms::kProbabilities ? probabilities(row, b, n) : nullptr;
      const A* w = weight_ ? weight_ + b : nullptr;
      if constexpr (sizeof(S) == sizeof(A)) {
        if (stride == 1) {
          A* g = g_row + b;
          if (streamed_) {
            write_block<kTerms, kSecondCache>(x, w, t, n, i, ref, g, lanes_to_alignment(g),
                                              [](A* p, V v) { stream(p, v); });
          } else {
            write_block<kTerms, kFirstCache>(x, w, t, n, i, ref, g, 0,
                                             [](A* p, V v) { store(p, v); });
          }
          continue;
        }
      }
      // Conversion is a loop of its own: behind an exponential, it would be one more thing for the
      // processor's window to hold.
      write_block<kTerms, kFirstCache>(x, w, t, n, i, ref, gradient_, 0,
                                       [](A* p, V v) { store(p, v); });
      put_block(gradient_, g_row + b * stride, stride, n, streamed_);
    }
    if constexpr (kTerms != Terms::kProbabilities) {
      if (!ignored) put(g_row + group_.pivot[i] * stride, factors_.at_target[i]);
    }
  }

  // The gradient of n neighbouring logits. Whole vectors from g + head on go through put_whole; the
  // lanes before and after them are written with vectors that overlap those.
  template <Terms kTerms, int kCache, class F>
  FUSED_CE_INLINE void write_block(const S* x, const A* w, const A* t, int n, int i,
                                   const Reference<S>& ref, A* g, int head, F put_whole) {
    const V factor = splat(factors_.factor[i]), grad = splat(factors_.grad[i]);
    const auto whole = [&](int j) __attribute__((always_inline)) {
      return gradient<kTerms>(ref, factor, grad, load(x + j), weights<kTerms>(mixing_, w, t, j));
    };
    if (n < kW) {
      const V q = weights_partial<kTerms>(mixing_, w, t, n);
      store_partial(g, n, gradient<kTerms>(ref, factor, grad, load_partial(x, n, A(0)), q));
      return;
    }
    if (head > 0) store(g, whole(0));
    int j = head;
    for (; j + kUnroll * kW <= n; j += kUnroll * kW) {
#pragma GCC unroll 4
      for (int u = 0; u < kUnroll; u += 2) {
        const int at = j + u * kW;
        prefetch<kCache>(x + j, u * kW);
        prefetch<kCache>(x + j, (u + 1) * kW);
        const Pair<V> logits = {load(x + at), load(x + at + kW)};
        const Pair<V> q = {weights<kTerms>(mixing_, w, t, at),
                           weights<kTerms>(mixing_, w, t, at + kW)};
        const Pair<V> v = gradient<kTerms>(ref, factor, grad, logits, q);
        put_whole(g + at, v.a);
        put_whole(g + at + kW, v.b);
      }
    }
    for (; j + kW <= n; j += kW) put_whole(g + j, whole(j));
    if (j < n) store(g + n - kW, whole(n - kW));
  }

  // Writes a block of gradients where it belongs.
  static void put_block(const A* from, S* to, int64_t stride, int n, bool streamed) {
    if (stride == 1) return convert(from, to, n, streamed);
    for (int j = 0; j < n; ++j) put(to + j * stride, from[j]);
  }

  bool streamed_ = false;
  Group<A, kRowGroup> group_;
  Factors<A, kRowGroup> factors_;
  alignas(64) double grad_[kRowGroup];
  alignas(64) A gradient_[kBlock];
};

}  // namespace fused_ce::cpu::FUSED_CE_ISA
