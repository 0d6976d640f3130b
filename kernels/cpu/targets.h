// SPDX-License-Identifier: BSD-3-Clause
// Reading what rows are held against, and what backward is given of them: class indices, the
// numbers that forward left, the gradients of losses.
#pragma once

#include "finish.h"
#include "layout.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

// f(p) with the class indices as the type that they have.
template <class F>
inline auto with_index(const Problem& p, F f) {
  switch (p.target_kind) {
    case TargetKind::kUInt8:
      return f(static_cast<const uint8_t*>(p.target));
    case TargetKind::kInt8:
      return f(static_cast<const int8_t*>(p.target));
    case TargetKind::kInt16:
      return f(static_cast<const int16_t*>(p.target));
    case TargetKind::kInt32:
      return f(static_cast<const int32_t*>(p.target));
    default:
      return f(static_cast<const int64_t*>(p.target));
  }
}

// Reads the targets of rows [first, first + n), and fills up to `padded` rows with ignored ones.
// Returns the first row whose index is out of range, or kNoBadRow; such a row does not count, so
// that nothing is read outside of it. What a class elsewhere weighs is known in backward alone.
template <class A, int kRows>
FUSED_CE_OUT_OF_LINE int64_t read_targets(const Problem& p, int64_t first, int n, int padded,
                                          Pivots<A, kRows>& rows) {
  using V = Vec<int64_t>;
  constexpr int kW = kLanes<int64_t>;
  for (int i = (n + kW - 1) / kW * kW; i < padded; ++i) rows.leave_out(i, kIgnored);
  const int64_t first_class = p.slice.first, end = all_classes(p);
  const bool all_in_range = with_index(p, [&]<class T>(const T* target) {
    const T* y = target + first;
    V bad{};
    for (int i = 0; i < n; i += kW) {
      T some[kW] = {};
      const bool all = i + kW <= n;
      if (!all) __builtin_memcpy(some, y + i, static_cast<size_t>(n - i) * sizeof(T));
      const V index = widen_integers<T>(load_narrow(all ? y + i : some));
      const V asked =
          all ? index != p.ignore_index
              : (index != p.ignore_index) & (iota<int64_t>() < static_cast<int64_t>(n - i));
      const V in_range = (index >= 0) & (index < end), out_of_range = asked & ~in_range;
      const V c = (in_range ? index : V{}) - first_class;
      const V used = in_range & asked & (c >= 0) & (c < p.classes),
              elsewhere = asked & in_range & ~used;
      bad |= out_of_range;
      const V no_class =
          elsewhere ? V{} + int64_t{kElsewhere}
                    : (out_of_range ? V{} + int64_t{kOutOfRange} : V{} + int64_t{kIgnored});
      store_narrow(rows.pivot + i, used ? c : no_class);
      store(rows.target_weight + i, used ? splat(1.0) : Vec<double>{});
    }
    return all_lanes(bad == 0);
  });
  if (const A* weight = static_cast<const A*>(p.weight)) {
    for (int i = 0; i < n; ++i) {
      if (rows.has_pivot(i)) rows.target_weight[i] = static_cast<double>(weight[rows.pivot[i]]);
    }
  }
  if (const double* weight = p.slice.target_weight) {
    for (int i = 0; i < n; ++i) rows.target_weight[i] = weight[first + i];
  }
  if (all_in_range) return kNoBadRow;
  int i = 0;
  while (rows.pivot[i] != kOutOfRange) ++i;
  return first + i;
}

template <class A>
inline void times_row_weights(const Problem& p, int64_t first, int n, double* values) {
  if (!p.row_weight) return;
  const A* weight = static_cast<const A*>(p.row_weight) + first;
  for (int i = 0; i < n; ++i) values[i] *= static_cast<double>(weight[i]);
}

// Of the loss or its z-loss, of n rows: `from` is null where there is none.
template <class A>
inline void read_grad(const Problem& p, const Backward& back, const void* from, int64_t first,
                      int n, double* grad) {
  const bool shared = back.grad_stride == 0;
  if (!from) {
    for (int i = 0; i < n; ++i) grad[i] = 0;
    return;
  }
  const double* g =
      gather<double>(from, back.grad_dtype, shared ? 0 : first, 1, shared ? 1 : n, grad);
  const double divisor = back.total_weight ? *back.total_weight : 1;
  if (shared) {
    const double value = g[0] / divisor;
    for (int i = 0; i < n; ++i) grad[i] = value;
  } else {
    for (int i = 0; i < n; ++i) grad[i] = g[i] / divisor;
  }
  times_row_weights<A>(p, first, n, grad);
}

// Of something that a row has one of: `from` is null where there is none.
template <class A>
inline void read_row_grad(const void* from, int64_t first, int n, double* grad) {
  if (from) return gather_as<A>(from, first, 1, n, grad);
  for (int i = 0; i < n; ++i) grad[i] = 0;
}

// Makes the gradients of logits, of n rows, those of numbers in memory, and fills up to `padded`.
inline void scale_and_pad(double scale, int n, int padded, double* grad) {
  if (scale != 1) {
    for (int i = 0; i < n; ++i) grad[i] *= scale;
  }
  for (int i = n; i < padded; ++i) grad[i] = 0;
}

// What an Incoming holds of lse beside the gradients of losses, which these are before any scale.
template <class A>
FUSED_CE_OUT_OF_LINE void read_more(const Problem& p, const Backward& back, int64_t first, int n,
                                    int padded, const double* loss, double* z_loss, double* lse) {
  const double scale = static_cast<double>(static_cast<A>(p.scale));
  const double twice_weight = 2 * p.z_loss_weight;
  read_grad<A>(p, back, back.grad_z_loss, first, n, z_loss);
  for (int i = 0; i < n; ++i) z_loss[i] = (loss[i] + z_loss[i]) * twice_weight;
  read_row_grad<A>(back.grad_lse, first, n, lse);
  scale_and_pad(scale, n, padded, z_loss);
  scale_and_pad(scale, n, padded, lse);
}

// (Loops hold nothing but their arrays: a compiler has to suppose that what they write is part of
// the problem.)
template <class A, int kRows>
inline void read_incoming(const Problem& p, const Backward& back, int64_t first, int n, int padded,
                          Incoming<kRows>& incoming) {
  read_grad<A>(p, back, back.grad, first, n, incoming.loss);
  incoming.more = p.z_loss_weight != 0 || back.grad_lse;
  const double scale = static_cast<double>(static_cast<A>(p.scale));
  if (incoming.more)
    read_more<A>(p, back, first, n, padded, incoming.loss, incoming.z_loss, incoming.lse);
  if (back.grad_entropy) {
    read_row_grad<A>(back.grad_entropy, first, n, incoming.entropy);
    scale_and_pad(scale, n, padded, incoming.entropy);
  }
  scale_and_pad(scale, n, padded, incoming.loss);
}

// Makes sums that are relative to the references' own exponentials relative to what the loops take
// exponentials relative to.
template <class S, class States>
FUSED_CE_OUT_OF_LINE void lift_sums(const Problem& p, int n, States& rows) {
  using A = Accumulate<S>;
  const A scale = static_cast<A>(p.scale);
  for_each_offset<S>(rows, n, scale, [&](int i, const Offset<double>& ref) {
    const Vec<double> own = exp_of<S>(above_shift<A>(rows.reference, i, scale, ref), ref);
    store(rows.sum + i, lanes(rows.sum, i) * own);
  });
}

// Reads back what forward left for n rows, and the gradients of their losses. Up to `padded` rows
// follow that are harmless to compute with.
template <class S, Terms kTerms, int kRows, class A = Accumulate<S>>
FUSED_CE_OUT_OF_LINE void read_saved(const Problem& p, const Backward& back, int64_t first, int n,
                                     int padded, RowStates<A, kTerms, kRows>& rows,
                                     Incoming<kRows>& incoming) {
  read_incoming<A>(p, back, first, n, padded, incoming);
  for (int i = n; i < padded; ++i) {
    rows.blank(i);
    rows.sum[i] = 0x1p100;  // whose pivot does not lead
  }
  const A* reference = static_cast<const A*>(back.saved.reference) + first;
  const A* sum = static_cast<const A*>(back.saved.sum) + first;
  const A* target_or_mass = static_cast<const A*>(back.saved.target_or_mass) + first;
  for (int i = 0; i < n; ++i) {
    rows.reference[i] = reference[i];
    rows.sum[i] = static_cast<double>(sum[i]);
    rows.pivot_logit[i] = kHasMass<kTerms> ? reference[i] : target_or_mass[i];
    if constexpr (kHasMass<kTerms>) rows.mass[i] = static_cast<double>(target_or_mass[i]);
    if constexpr (kIsRanked<kTerms>)
      rows.gap[i] = static_cast<double>(static_cast<const A*>(back.saved.gap)[first + i]);
  }
  if (is_slice(p)) lift_sums<S>(p, n, rows);
}

}  // namespace fused_ce::cpu::FUSED_CE_ISA
