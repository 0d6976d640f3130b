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
inline constexpr int64_t kStagedLogits = 32768, kStagedRows = 16;

// Where a value of an array lies, if there is the array.
inline const void* at(const void* base, int64_t index, int64_t size) {
  return base ? static_cast<const char*>(base) + index * size : nullptr;
}
inline void* at(void* base, int64_t index, int64_t size) {
  return base ? static_cast<char*>(base) + index * size : nullptr;
}

// f of n values, in their place. There is room for whole vectors.
template <class A, class F>
inline void update(A* values, int n, F f) {
  constexpr int kW = kLanes<A>;
  for (int i = 0; i < n; i += kW) {
    if (n - i >= kW) {
      store(values + i, f(load(values + i)));
    } else {
      store_partial(values + i, n - i, f(load_partial(values + i, n - i, A(0))));
    }
  }
}

template <class S>
class Stage {
  using A = Accumulate<S>;
  using V = Vec<A>;
  static constexpr int kW = kLanes<A>;

 public:
  Stage(const Problem& p, bool as_planes)
      : p_(p),
        as_planes_(as_planes),
        cap_(p),
        rows_(larger<int64_t>(kStagedLogits / larger<int64_t>(p.classes, 1),
                              as_planes ? kStagedRows : 1)),
        logits_(static_cast<A*>(staging(static_cast<size_t>(rows_ * p.classes + kW) * sizeof(A)))) {
  }

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

  // Makes the logits of rows [first, first + n), and gives the problem that they are.
  Problem open(int64_t first, int n) {
    first_ = first;
    n_ = n;
    const S* const x = static_cast<const S*>(p_.logits);
    for_runs(p_.logits_strides, [&](A* to, int64_t offset, int64_t stride, int count) {
      gather_as<S>(x, offset, stride, count, to);
      if (p_.cap != 0) update(to, count, [&](V v) { return cap_.logit(v); });
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
         s.prediction ? s.prediction + first_ : nullptr, at(s.confidence, first_, sizeof(A))}};
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
    const S* const x = static_cast<const S*>(p_.logits);
    if (p_.cap != 0) {
      for_runs(p_.logits_strides, [&](A* gradient, int64_t offset, int64_t stride, int count) {
        for (int i = 0; i < count; i += kW) {
          const int n = smaller(count - i, kW);
          alignas(64) A some[kW] = {};
          gather_as<S>(x, offset + i * stride, stride, n, some);
          const V slope = cap_.slope(load(some));
          // None stays none, whatever a row that does not count has for logits.
          update(gradient + i, n, [&](V v) { return v == A(0) ? v : v * slope; });
        }
      });
    }
    S* const g = static_cast<S*>(back.grad_logits);
    for_runs(back.grad_strides, [&](A* from, int64_t offset, int64_t stride, int count) {
      if (stride == 1) return convert(from, g + offset, count, streamed);
      for (int i = 0; i < count; ++i) put(g + offset + i * stride, from[i]);
    });
  }

 private:
  // f(values, offset, stride, n) for the tile's runs of neighbours: the n values lie `stride` apart
  // from `offset` on where strides are these. Rows, or the tile's part of a plane.
  template <class F>
  void for_runs(const Strides& s, F f) const {
    if (as_planes_) {
      const int64_t start = row_offset(p_, s, first_);
      for (int64_t c = 0; c < p_.classes; ++c)
        f(logits_ + c * n_, start + c * s.classes, s.inner, n_);
      return;
    }
    const int classes = static_cast<int>(p_.classes);
    for (int r = 0; r < n_; ++r)
      f(logits_ + r * p_.classes, row_offset(p_, s, first_ + r), s.classes, classes);
  }
  Strides strides() const { return as_planes_ ? Strides{0, n_, 1} : Strides{p_.classes, 1, 0}; }
  Saved saved(const Saved& s) const {
    return {at(s.reference, first_, sizeof(A)), at(s.sum, first_, sizeof(A)),
            at(s.target_or_mass, first_, sizeof(A)), at(s.gap, first_, sizeof(A))};
  }

  const Problem& p_;
  const bool as_planes_;
  const Cap<A> cap_;
  const int64_t rows_;  // a tile has at most
  A* const logits_;
  int64_t first_ = 0;
  int n_ = 0;
};

}  // namespace fused_ce::cpu::FUSED_CE_ISA
