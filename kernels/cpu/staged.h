// SPDX-License-Identifier: BSD-3-Clause
// Problems whose logits are made before a loop reads them: capped ones, and those of a half type
// that only the loops of float know. A tile of rows at a time goes into memory that the caches
// hold, as a problem of its own of the accumulate type; in backward its gradients take the place of
// its logits, and go from there to where they belong.
#pragma once

#include "cap.h"
#include "plan.h"
#include "results.h"
#include "scratch.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

// Logits a tile has at most, unless a row has more; and rows of planes at least.
inline constexpr int64_t kStagedLogits = 16384, kStagedRows = 16;

// Where a value of an array lies, if there is the array.
inline const void* at(const void* base, int64_t index, int64_t size) {
  return base ? static_cast<const char*>(base) + index * size : nullptr;
}
inline void* at(void* base, int64_t index, int64_t size) {
  return base ? static_cast<char*>(base) + index * size : nullptr;
}

// f(i, n) for the vectors of n numbers: n is how many of a vector's lanes there are.
template <class A, class F>
FUSED_CE_INLINE void for_vectors(int64_t n, F f) {
  constexpr int kW = kLanes<A>;
  int64_t i = 0;
  for (; i + kW <= n; i += kW) f(i, kW);
  if (i < n) f(i, static_cast<int>(n - i));
}

template <class S>
class Stage {
  using A = Accumulate<S>;
  using V = Vec<A>;
  static constexpr int kW = kLanes<A>;

 public:
  Stage(const Problem& p, bool as_planes, bool backward)
      : p_(p),
        as_planes_(as_planes),
        cap_(p),
        rows_(larger<int64_t>(kStagedLogits / larger<int64_t>(p.classes, 1),
                              as_planes ? kStagedRows : 1)),
        size_((rows_ * p.classes + 2 * kW - 1) / kW * kW),
        logits_(static_cast<A*>(
            staging(static_cast<size_t>(backward && p.cap != 0 ? 2 * size_ : size_) * sizeof(A)))),
        slopes_(logits_ + size_) {}

  // f(first, n) for tiles of some rows, none of which crosses the end of an outer index.
  template <class F>
  void for_tiles(Range rows, F f) const {
    for (int64_t first = rows.begin; first < rows.end;) {
      int64_t n = smaller(rows_, rows.end - first);
      if (p_.inner > 1) n = smaller(n, p_.inner - first % p_.inner);
      f(first, static_cast<int>(n));
      first += n;
    }
  }

  // Makes the logits of rows [first, first + n), for backward with the slopes of capped ones, and
  // gives the problem that they are.
  template <bool kBackward>
  Problem open(int64_t first, int n) {
    first_ = first;
    n_ = n;
    const S* const x = static_cast<const S*>(p_.logits);
    for_runs(p_.logits_strides, [&](int64_t at, int64_t offset, int64_t stride, int count) {
      A* const to = logits_ + at;
      if (p_.cap == 0) return gather_as<S>(x, offset, stride, count, to);
      const bool adjoin = stride == 1;
      if (!adjoin) gather_as<S>(x, offset, stride, count, to);
      // Whole vectors are stored: what lies behind a run is yet to be made.
      for_vectors<A>(count, [&](int64_t i, int some) __attribute__((always_inline)) {
        const V some_x = !adjoin      ? load(to + i)
                         : some == kW ? load(x + offset + i)
                                      : load_partial(x + offset + i, some, A(0));
        const Capped<A> capped = cap_.of(some_x);
        store(to + i, capped.logit);
        if (kBackward) store(slopes_ + at + i, capped.slope);
      });
    });

    Problem tile = p_;
    tile.outer = as_planes_ ? 1 : n;
    tile.inner = as_planes_ ? n : 1;
    tile.logits = logits_;
    tile.dtype = sizeof(A) == sizeof(double) ? DType::kDouble : DType::kFloat;
    tile.logits_strides = strides();
    if (p_.cap != 0) tile.scale = 1, tile.cap = 0;
    if (p_.target_kind == TargetKind::kProbabilities) {
      const Strides& s = p_.target_strides;
      tile.target = at(p_.target, row_offset(p_, s, first), size_of(p_.target_dtype));
      tile.target_strides = as_planes_ ? Strides{0, s.classes, s.inner}
                                       : Strides{p_.inner == 1 ? s.outer : s.inner, s.classes, 0};
    } else {
      tile.target = with_index(p_, [&](auto* y) { return static_cast<const void*>(y + first); });
    }
    tile.row_weight = at(p_.row_weight, first, sizeof(A));
    if (p_.slice.target_weight) tile.slice.target_weight += first;
    return tile;
  }

  // What forward leaves of the tile, and what backward is given of it.
  Forward forward(const Forward& out) const {
    const int64_t size = size_of(out.loss_dtype);
    const Statistics& s = out.statistics;
    return {
        saved(out.saved),
        at(out.loss, first_, size),
        out.loss_dtype,
        {at(s.z_loss, first_, size), at(s.lse, first_, sizeof(A)), at(s.entropy, first_, sizeof(A)),
         s.prediction ? s.prediction + first_ : nullptr, at(s.confidence, first_, sizeof(A))},
        {out.slice.numbers ? out.slice.numbers + first_ * SliceSums::kNumbers : nullptr,
         out.slice.wants_gap, out.slice.wants_prediction}};
  }
  Backward backward(const Backward& back) const {
    const int64_t first = first_ * back.grad_stride, size = size_of(back.grad_dtype);
    Backward tile = back;
    tile.saved = saved(back.saved);
    tile.grad = at(back.grad, first, size);
    tile.grad_z_loss = at(back.grad_z_loss, first, size);
    tile.grad_lse = at(back.grad_lse, first_, sizeof(A));
    tile.grad_entropy = at(back.grad_entropy, first_, sizeof(A));
    tile.grad_logits = logits_;
    tile.grad_strides = strides();
    return tile;
  }

  // Puts the tile's gradients where they belong, perhaps in the logits' own place.
  void put_gradients(const Backward& back, bool streamed) {
    if (p_.cap != 0) {
      for_vectors<A>(n_ * p_.classes, [&](int64_t i, int) __attribute__((always_inline)) {
        // None stays none, whatever a row that does not count has for logits.
        const V gradient = load(logits_ + i);
        store(logits_ + i, gradient == A(0) ? gradient : gradient * load(slopes_ + i));
      });
    }
    S* const g = static_cast<S*>(back.grad_logits);
    for_runs(back.grad_strides, [&](int64_t at, int64_t offset, int64_t stride, int count) {
      const A* const from = logits_ + at;
      if (stride == 1) return convert(from, g + offset, count, streamed);
      for (int i = 0; i < count; ++i) put(g + offset + i * stride, from[i]);
    });
  }

 private:
  // f(at, offset, stride, n) for the tile's runs of neighbours, from `at` on: the n values lie
  // `stride` apart from `offset` on where strides are these. Rows, or the tile's part of a plane;
  // all rows where the next begins as one ends.
  template <class F>
  void for_runs(const Strides& s, F f) const {
    const int classes = static_cast<int>(p_.classes);
    if (as_planes_) {
      const int64_t start = row_offset(p_, s, first_);
      for (int64_t c = 0; c < classes; ++c) f(c * n_, start + c * s.classes, s.inner, n_);
    } else if (p_.inner == 1 && s.classes == 1 && s.outer == classes) {
      f(0, first_ * classes, 1, n_ * classes);
    } else {
      for (int64_t r = 0; r < n_; ++r)
        f(r * classes, row_offset(p_, s, first_ + r), s.classes, classes);
    }
  }
  Strides strides() const { return as_planes_ ? Strides{0, n_, 1} : Strides{p_.classes, 1, 0}; }
  Saved saved(const Saved& s) const {
    return {at(s.reference, first_, sizeof(A)), at(s.sum, first_, sizeof(A)),
            at(s.target_or_mass, first_, sizeof(A)), at(s.gap, first_, sizeof(A)), s.ranked};
  }

  const Problem& p_;
  const bool as_planes_;
  const Cap<A> cap_;
  const int64_t rows_, size_;  // a tile has at most; and its logits, to the end of any vector
  A *const logits_, *const slopes_;
  int64_t first_ = 0;
  int n_ = 0;
};

}  // namespace fused_ce::cpu::FUSED_CE_ISA
