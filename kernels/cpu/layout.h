// Where a problem's rows and values lie in memory.
#pragma once

#include "convert.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

inline int64_t row_offset(const Problem& p, const Strides& s, int64_t row) {
  if (p.inner == 1) return row * s.outer;  // a division costs as much as a short row
  return row / p.inner * s.outer + row % p.inner * s.inner;
}

inline int64_t class_index(const Problem& p, int64_t row) {
  return p.target_kind == TargetKind::kUInt8 ? static_cast<const uint8_t*>(p.target)[row]
                                             : static_cast<const int64_t*>(p.target)[row];
}

template <class S, class A>
inline void gather_as(const void* base, int64_t offset, int64_t stride, int n, A* out) {
  const S* p = static_cast<const S*>(base) + offset;
  int i = 0;
  if constexpr (sizeof(A) == sizeof(Accumulate<S>)) {
    constexpr int kW = kLanes<A>;
    if (stride == 1) {
      for (; i + kW <= n; i += kW) store(out + i, load(p + i));
    }
  }
  for (; i < n; ++i) out[i] = static_cast<A>(get(p + i * stride));
}

// n values that lie `stride` apart, as n neighbours of type A: the memory itself where it is so
// already.
template <class A>
inline const A* gather(const void* base, DType dtype, int64_t offset, int64_t stride, int n,
                       A* buffer) {
  constexpr DType kSame = sizeof(A) == 8 ? DType::kDouble : DType::kFloat;
  if (dtype == kSame && stride == 1) return static_cast<const A*>(base) + offset;
  switch (dtype) {
    case DType::kFloat:
      gather_as<float>(base, offset, stride, n, buffer);
      break;
    case DType::kDouble:
      gather_as<double>(base, offset, stride, n, buffer);
      break;
    case DType::kBFloat16:
      gather_as<BFloat16>(base, offset, stride, n, buffer);
      break;
    case DType::kHalf:
      gather_as<Half>(base, offset, stride, n, buffer);
      break;
  }
  return buffer;
}

// Rows [first, first + n) as one run of n * classes values: the memory itself where they lie so,
// or else `buffer`.
template <class S>
inline const S* flat_rows(const Problem& p, int64_t first, int n, S* buffer) {
  const S* logits = static_cast<const S*>(p.logits);
  const Strides& s = p.logits_strides;
  if (p.inner == 1 && s.classes == 1 && s.outer == p.classes) return logits + first * p.classes;
  S* out = buffer;
  for (int i = 0; i < n; ++i) {
    const S* row = logits + row_offset(p, s, first + i);
    for (int64_t c = 0; c < p.classes; ++c) *out++ = row[c * s.classes];
  }
  return buffer;
}

template <class T, class A, class Group>
inline bool read_targets_as(const Problem& p, int64_t first, int n, Group& group) {
  using V = Vec<int64_t>;
  constexpr int kW = kLanes<int64_t>;
  const T* y = static_cast<const T*>(p.target) + first;
  V bad{};
  for (int i = 0; i < n; i += kW) {
    T some[kW] = {};
    const bool all = i + kW <= n;
    if (!all) __builtin_memcpy(some, y + i, static_cast<size_t>(n - i) * sizeof(T));
    const V c = __builtin_convertvector(load_narrow(all ? y + i : some), V);
    const V in_range = (c >= 0) & (c < p.classes);
    const V counted = all ? c != p.ignore_index
                          : (c != p.ignore_index) & (iota<int64_t>() < static_cast<int64_t>(n - i));
    const V used = in_range & counted;
    bad |= counted & ~in_range;
    store_narrow(group.pivot + i, used ? c : V{} - 1);
    store(group.target_weight + i, used ? splat(1.0) : Vec<double>{});
  }
  if (const A* weight = static_cast<const A*>(p.weight)) {
    for (int i = 0; i < n; ++i) {
      if (group.pivot[i] >= 0) group.target_weight[i] = static_cast<double>(weight[group.pivot[i]]);
    }
  }
  return all_lanes(bad == 0);
}

// Reads the targets of n rows into a group, which is filled up to `padded` rows with ignored ones.
// Returns the first row whose index is out of range, or kNoBadRow; such a row is treated as
// ignored, so that nothing is read outside the row.
template <class A, class Group>
FUSED_CE_OUT_OF_LINE int64_t read_targets(const Problem& p, int64_t first, int n, int padded,
                                          Group& group) {
  for (int i = (n + kLanes<int64_t> - 1) / kLanes<int64_t> * kLanes<int64_t>; i < padded; ++i)
    group.pivot[i] = -1, group.target_weight[i] = 0;
  if (p.target_kind == TargetKind::kUInt8 ? read_targets_as<uint8_t, A>(p, first, n, group)
                                          : read_targets_as<int64_t, A>(p, first, n, group)) {
    return kNoBadRow;
  }
  int64_t row = first;
  for (;; ++row) {
    const int64_t y = class_index(p, row);
    if (y != p.ignore_index && (y < 0 || y >= p.classes)) return row;
  }
}

inline void read_grad(const Backward& from, int64_t first, int n, double* grad) {
  const bool shared = from.grad_stride == 0;
  const double* g =
      gather<double>(from.grad, from.grad_dtype, shared ? 0 : first, 1, shared ? 1 : n, grad);
  const double divisor = from.total_weight ? *from.total_weight : 1;
  if (shared) {
    const double value = g[0] / divisor;
    for (int i = 0; i < n; ++i) grad[i] = value;
  } else {
    for (int i = 0; i < n; ++i) grad[i] = g[i] / divisor;
  }
}

// Reads back what forward left for n rows, and the gradients of their losses. The group is filled
// up to `padded` rows with ones that are harmless to compute with.
template <class A, bool kIndices, class Group>
FUSED_CE_OUT_OF_LINE void read_saved(const Backward& from, int64_t first, int n, int padded,
                                     Group& group, double* grad) {
  read_grad(from, first, n, grad);
  for (int i = n; i < padded; ++i) {
    group.reference[i] = group.pivot_logit[i] = 0;
    group.sum[i] = 1;
    group.mass[i] = grad[i] = 0;
  }
  const A* reference = static_cast<const A*>(from.saved.reference) + first;
  const A* sum = static_cast<const A*>(from.saved.sum) + first;
  const A* target = static_cast<const A*>(from.saved.target_or_mass) + first;
  for (int i = 0; i < n; ++i) {
    group.reference[i] = reference[i];
    group.sum[i] = static_cast<double>(sum[i]);
    group.pivot_logit[i] = kIndices ? target[i] : reference[i];
    if constexpr (!kIndices) group.mass[i] = static_cast<double>(target[i]);
  }
}

}  // namespace fused_ce::cpu::FUSED_CE_ISA
