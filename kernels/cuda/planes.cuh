// SPDX-License-Identifier: BSD-3-Clause
// Planes: logits whose neighbours in memory are rows ((N,C,d1..) and transposed matrices), read in
// place. A thread has kN neighbouring rows, and walks through the classes; a warp reads a run of
// each plane.
#pragma once

#include "rows.cuh"

namespace fused_ce::cuda {

// How far a target's z may be above a guessed reference: its exponential fits, and the sum too.
template <class S>
inline constexpr Accumulate<S> kFarTarget =
    Accumulate<S>(0.69) * ((sizeof(S) == 8 ? 1000 : 126) - ReferenceConstants<S>::kHeadroomBits);
// As kForwardBlocks in rows.cuh. Where a thread has neighbouring rows, at most 168 registers, of
// half types without a linear sum 128 and with one 255, as beside probabilities; where it has one
// 64, 96 and of the general loops 128; of double 255.
template <class S, Terms kTerms, int kN>
inline constexpr int kPlaneBlocks = sizeof(S) == 8 ? 2
                                    : kN > 1       ? (kHasMass<kTerms> ? 2
                                                      : !kIsHalf<S>    ? 3
                                                                       : (kHasLinear<kTerms> ? 2 : 4))
                                    : kIsGeneral<kTerms> ? 4
                                    : kHasLinear<kTerms> ? 5
                                                         : 8;
// Planes that are added up before Sum, which costs more: where there are weights, or where a round
// is not full. (More of them would have many registers, or many be absent.)
inline constexpr int kPlanesTogether = 4;
// A round: planes whose loads are under way at once in a thread. They are 40 KB in all threads of a
// multiprocessor, which hide the latency of its memory.
template <class S, Terms kTerms, int kN>
inline constexpr int kPlanes = [] {
  if (sizeof(S) == 8) return kPlanesTogether;  // double waits for the FP64 units instead
  constexpr int kBytes = kPlaneBlock * kPlaneBlocks<S, kTerms, kN> * kPlanesTogether *
                         static_cast<int>(sizeof(S)) * kN;
  return (40 * 1024 + kBytes - 1) / kBytes * kPlanesTogether;
}();

// kN rows side by side: rows [i, i + kN) of the problem.
template <class S, Terms kTerms, int kN>
class PlaneReader {
  using A = Accumulate<S>;
  static constexpr int kAtOnce = kPlanes<S, kTerms, kN>;
  // Whether a target's logit is taken out of a round; a linear sum has it.
  static constexpr bool kSilences = !kHasLinear<kTerms>;

 public:
  using Planes = Values<S, kN>[kAtOnce];

  __device__ PlaneReader(const Objective<S, kTerms>& objective, int64_t i)
      : objective_(objective),
        logits_(static_cast<const S*>(objective.problem.logits) +
                row_offset(objective.problem, objective.problem.logits_strides, i)),
        probabilities_(objective.probabilities(i)) {}

  // The number in memory for a class of the k-th row, and its logit.
  __device__ S number(int64_t c, int k) const {
    return logits_[c * objective_.problem.logits_strides.classes + k];
  }
  __device__ A logit(int64_t c, int k) const { return objective_.logit(get(number(c, k))); }

  // Calls f(q) with the weights of the logits of n classes from c in the linear sums, of which
  // `last` are there.
  template <int n, class F>
  __device__ __forceinline__ void with_weights(int64_t c, int last, F f) const {
    objective_.template with_weights_of_rows<n, kN>(probabilities_, c, last, f);
  }

  // Calls f(c, x, last) for all classes, a round at a time: x[u] has the logits of class c + u for
  // u < last, and -inf beyond.
  template <class F>
  __device__ __forceinline__ void for_rounds(F f) const {
    const int64_t classes = objective_.problem.classes;
    const int64_t stride = objective_.problem.logits_strides.classes;
    const S* from = logits_;
    Planes x;
    int64_t c = 0;
#pragma unroll 1
    for (; c + kAtOnce <= classes; c += kAtOnce) {
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u, from += stride) x[u] = load_values<S, kN>(from);
      f(c, x, kAtOnce);
    }
    if (c == classes) return;
    const int last = static_cast<int>(classes - c);
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u, from += stride)
      x[u] = u < last ? load_values<S, kN>(from) : absent();
    f(c, x, last);
  }
  // Calls f<n>(u, last) for those of a round's first `planes` that are added up together: of u +
  // [0, n) those before u + last are there.
  template <class F>
  static __device__ __forceinline__ void for_together(int planes, F f) {
    if (!kHasLinear<kTerms> && planes == kAtOnce) return f.template operator()<kAtOnce>(0, kAtOnce);
    constexpr int n = kPlanesTogether;
#pragma unroll
    for (int u = 0; u < kAtOnce; u += n) {
      if (u < planes) f.template operator()<n>(u, planes - u < n ? planes - u : n);
    }
  }

  __device__ void find_largest(A (&m)[kN]) const {
    for (int k = 0; k < kN; ++k) m[k] = -infinity<A>();
    for_rounds([&](int64_t, const Planes& x, int) { see_largest(x, m); });
    for (int k = 0; k < kN; ++k) m[k] = objective_.logit(m[k]);
  }

  // The rows' states relative to m, or to a guess, which m becomes: the largest logits of the first
  // round. y: their targets, or NoClass.
  __device__ void sum(bool guessed, A (&m)[kN], const int64_t (&y)[kN],
                      RowState<A> (&rows)[kN]) const {
    RowSums<A, kTerms> sums[kN];
    Offset<S> offsets[kN] = {};
    const auto reference = [&](int k) {
      // Beside weights there are no registers for offsets.
      return objective_.reference(kHasLinear<kTerms> ? objective_.offset(objective_.finite(m[k]))
                                                     : offsets[k]);
    };
    for_rounds([&](int64_t c, Planes& x, int planes) {
      if (guessed && c == 0) {
        for (int k = 0; k < kN; ++k) m[k] = -infinity<A>();
        see_largest(x, m);
        for (int k = 0; k < kN; ++k) m[k] = objective_.logit(m[k]);
      }
      if (c == 0) {
        for (int k = 0; k < kN; ++k) offsets[k] = objective_.offset(objective_.finite(m[k]));
      }
      if constexpr (kSilences) {
#pragma unroll
        for (int k = 0; k < kN; ++k) silence(Chunk::of(c, kAtOnce, y[k]).target, k, x);
      }
      for_together(planes, [&]<int n>(int u, int last) {
        // Planes beyond the last add nothing to exponentials.
        if (!kHasLinear<kTerms>) last = n;
        with_weights<n>(c + u, last, [&](const A(&q)[n][kN]) {
#pragma unroll
          for (int k = 0; k < kN; ++k) {
            const Reference<S> ref = reference(k);
            const Chunk chunk = kSilences ? Chunk{c + u, -1} : Chunk::of(c + u, n, y[k]);
            S numbers[n];
            A z[n], weights[n];
#pragma unroll
            for (int j = 0; j < n; ++j) {
              numbers[j] = x[u + j].v[k];
              weights[j] = q[j][k];
            }
            objective_.logits(numbers, z);
            objective_.add(sums[k], chunk, last, ref, m[k], z, weights);
          }
        });
      });
    });
#pragma unroll
    for (int k = 0; k < kN; ++k) {
      // Read again, while a cache has it: a comparison an element less, and a register a row.
      rows[k] = objective_.state(sums[k], m[k], y[k], is_class(y[k]) ? logit(y[k], k) : A(0));
    }
  }

 private:
  static __device__ __forceinline__ Values<S, kN> absent() {
    Values<S, kN> values;
#pragma unroll
    for (int k = 0; k < kN; ++k) values.v[k] = no_logit<S>();
    return values;
  }
  // -inf, whose exponential is 0, in the place of the k-th row's u-th plane, if there is one.
  static __device__ __forceinline__ void silence(int u, int k, Planes& x) {
    if (u < 0) return;
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      x[j].v[k] = j == u ? no_logit<S>() : x[j].v[k];
    }
  }
  static __device__ __forceinline__ void see_largest(const Planes& x, A (&m)[kN]) {
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
#pragma unroll
      for (int k = 0; k < kN; ++k) m[k] = larger(m[k], get(x[u].v[k]));
    }
  }

  const Objective<S, kTerms>& objective_;
  const S* const logits_;
  const int64_t probabilities_;
};

template <class S, Terms kTerms, int kN>
__global__ void __launch_bounds__(kPlaneBlock, kPlaneBlocks<S, kTerms, kN>)
    planes_forward(const Objective<S, kTerms> objective, const Forward out, const Tiles tiles) {
  using A = Accumulate<S>;
  const int64_t rows = rows_of(objective.problem);
  const Reducer<A, kPlaneBlock> reducer(tiles);
  for (unsigned t = blockIdx.x; t < tiles.count; t += gridDim.x) {
    RowTotals<A> totals;
    for (int64_t i = tiles.begin(t) + int64_t{threadIdx.x} * kN; i < tiles.end(t, rows);
         i += kPlaneBlock * kN) {
      const PlaneReader<S, kTerms, kN> reader(objective, i);
      int64_t y[kN];
      for (int k = 0; k < kN; ++k) y[k] = objective.target(i + k);
      A m[kN];
      RowState<A> row[kN];
      bool any_read = false;
      for (int k = 0; k < kN; ++k) any_read |= is_read(objective, y[k], out);
#pragma unroll 1
      for (bool guessed = true; any_read; guessed = false) {
        if (!guessed) reader.find_largest(m);
        reader.sum(guessed, m, y, row);
        bool in_range = true;
#pragma unroll
        for (int k = 0; k < kN; ++k) {
          // The target's own exponential is not in the sum.
          const A lead = objective.distance(m[k], row[k].pivot_logit);
          const bool far = is_class(y[k]) && !(lead < kFarTarget<S>);
          in_range &= !is_read(objective, y[k], out) || (!far && objective.is_in_range(row[k]));
        }
        if (in_range || !guessed) break;
      }
#pragma unroll
      for (int k = 0; k < kN; ++k) {
        if (!is_read(objective, y[k], out)) row[k] = ignored_state<A>();
      }
      put_rows(objective, row, i, out, totals);
    }
    reducer.template put<kPlaneBlock>(t, totals);
  }
  reducer.finish();
}

template <class S, Terms kTerms, int kN>
__global__ void __launch_bounds__(kPlaneBlock, kPlaneBlocks<S, kTerms, kN>)
    planes_backward(const Objective<S, kTerms> objective, const Backward back) {
  using Reader = PlaneReader<S, kTerms, kN>;
  using A = Accumulate<S>;
  const Problem& p = objective.problem;
  const int64_t stride = back.grad_strides.classes;
  const int64_t rows = rows_of(p), step = int64_t{gridDim.x} * kPlaneBlock * kN;
  for (int64_t i = (int64_t{blockIdx.x} * kPlaneBlock + threadIdx.x) * kN; i < rows; i += step) {
    const Reader reader(objective, i);
    S* const grad = static_cast<S*>(back.grad_logits) + row_offset(p, back.grad_strides, i);
    Factors<S> factors[kN];
#pragma unroll
    for (int k = 0; k < kN; ++k) factors[k] = objective.factors(back, i + k);
    bool any_counts = false;
    for (int k = 0; k < kN; ++k) any_counts |= factors[k].counts;
    if (!any_counts) {
      for (int64_t c = 0; c < p.classes; ++c)
        store_values<S, kN>(grad + c * stride, Values<S, kN>{});
      continue;
    }
    // What is in memory for the targets may be gone when their gradients are written.
    S target_numbers[kN] = {};
    if constexpr (kIsGeneral<kTerms>) {
      for (int k = 0; k < kN; ++k) {
        if (is_class(factors[k].target)) target_numbers[k] = reader.number(factors[k].target, k);
      }
    }
    reader.for_rounds([&](int64_t c, const auto& x, int planes) {
      S* to = grad + c * stride;
      Reader::for_together(planes, [&]<int n>(int u, int last) {
        reader.template with_weights<n>(c + u, last, [&](const auto& q) {
#pragma unroll
          for (int j = 0; j < n; ++j, to += stride) {
            Values<S, kN> values;
#pragma unroll
            for (int k = 0; k < kN; ++k) {
              const Factors<S>& f = factors[k];
              const A gradient =
                  objective.gradient(objective.reference(f.offset), f, x[u + j].v[k], q[j][k]);
              put(&values.v[k], f.counts ? gradient : A(0));
            }
            if (j < last) store_values<S, kN>(to, values);
          }
        });
      });
    });
    for (int k = 0; k < kN; ++k) {
      const Factors<S>& f = factors[k];
      if (is_class(f.target)) {
        put(grad + f.target * stride + k, objective.gradient_at_target(f, target_numbers[k]));
      }
    }
  }
}

}  // namespace fused_ce::cuda
