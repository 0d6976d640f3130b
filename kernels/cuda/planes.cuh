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
// As kForwardBlocks in rows.cuh. Where a thread has neighbouring rows, at most 168 registers of
// float and 128 of half types, and with a linear sum 255; where it has one 64, 96 and of the
// general loops 128; of double 255.
template <class S, Terms kTerms, int kN>
inline constexpr int kPlaneBlocks = sizeof(S) == 8       ? 2
                                    : kN > 1             ? (kHasLinear<kTerms> ? 2
                                                            : kIsHalf<S>       ? 4
                                                                               : 3)
                                    : kIsGeneral<kTerms> ? 4
                                    : kHasLinear<kTerms> ? 5
                                                         : 8;
// Planes that are added up before Sum, which costs more.
inline constexpr int kPlanesTogether = 4;
// Planes whose loads are under way at once in a thread: 40 KB in all threads of a multiprocessor,
// which hide the latency of its memory.
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
  static constexpr int kAtOnce = kPlanes<S, kTerms, kN>, kTogether = kPlanesTogether;

 public:
  using Planes = Values<S, kN>[kAtOnce];

  __device__ PlaneReader(const Objective<S, kTerms>& objective, int64_t i)
      : objective_(objective),
        logits_(static_cast<const S*>(objective.problem.logits) +
                row_offset(objective.problem, objective.problem.logits_strides, i)),
        probabilities_(objective.probabilities(i)) {}

  // Calls f(q) with the weights of the logits of kTogether classes from c in the linear sums, of
  // which `last` are there.
  template <class F>
  __device__ __forceinline__ void with_weights(int64_t c, int last, F f) const {
    objective_.template with_weights_of_rows<kTogether, kN>(probabilities_, c, last, f);
  }

  // Calls f(c, x, last) for all classes, some at once: x[u] has the logits of class c + u for u <
  // last, and -inf beyond.
  template <class F>
  __device__ __forceinline__ void for_planes(F f) const {
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
  // Calls f(u, last) for those of the planes [0, `planes`) that are added up together: u + [0,
  // last).
  template <class F>
  static __device__ __forceinline__ void for_together(int planes, F f) {
#pragma unroll
    for (int u = 0; u < kAtOnce; u += kTogether) {
      if (u < planes) f(u, planes - u < kTogether ? planes - u : kTogether);
    }
  }

  __device__ void find_largest(A (&m)[kN]) const {
    for (int k = 0; k < kN; ++k) m[k] = -infinity<A>();
    for_planes([&](int64_t, const Planes& x, int) { see_largest(x, m); });
    for (int k = 0; k < kN; ++k) m[k] = objective_.logit(m[k]);
  }

  // The rows' states relative to m, or to a guess, which m becomes: the largest logits of the
  // first planes. y: their targets, or NoClass.
  __device__ void sum(bool guessed, A (&m)[kN], const int64_t (&y)[kN],
                      RowState<A> (&rows)[kN]) const {
    RowSums<A, kTerms> sums[kN];
    for_planes([&](int64_t c, const Planes& x, int planes) {
      if (guessed && c == 0) {
        for (int k = 0; k < kN; ++k) m[k] = -infinity<A>();
        see_largest(x, m);
        for (int k = 0; k < kN; ++k) m[k] = objective_.logit(m[k]);
      }
      for_together(planes, [&](int u, int last) {
        // Planes beyond the last add nothing to exponentials.
        if (!kHasLinear<kTerms>) last = kTogether;
        with_weights(c + u, last, [&](const A(&q)[kTogether][kN]) {
#pragma unroll
          for (int k = 0; k < kN; ++k) {
            // Made anew for each chunk: what it takes is less than the registers it would hold.
            const Reference<S> ref = objective_.reference(objective_.finite(m[k]));
            const Chunk chunk = Chunk::of(c, kAtOnce, y[k]).from(u);
            S numbers[kTogether];
            A z[kTogether], weights[kTogether];
#pragma unroll
            for (int j = 0; j < kTogether; ++j) {
              numbers[j] = x[u + j].v[k];
              weights[j] = q[j][k];
            }
            objective_.logits(numbers, z);
            objective_.add(sums[k], chunk, 0, last, ref, m[k], z, weights);
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
  __device__ A logit(int64_t c, int k) const {
    return objective_.logit(get(logits_[c * objective_.problem.logits_strides.classes + k]));
  }
  static __device__ __forceinline__ Values<S, kN> absent() {
    Values<S, kN> values;
#pragma unroll
    for (int k = 0; k < kN; ++k) put(&values.v[k], -infinity<A>());
    return values;
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
  const Problem& p = objective.problem;
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
        store_values<S, kN>(grad + c * back.grad_strides.classes, Values<S, kN>{});
      continue;
    }
    reader.for_planes([&](int64_t c, const auto& x, int planes) {
      S* to = grad + c * back.grad_strides.classes;
      Reader::for_together(planes, [&](int u, int last) {
        reader.with_weights(c + u, last, [&](const auto& q) {
#pragma unroll
          for (int j = 0; j < kPlanesTogether; ++j) {
            Values<S, kN> values;
#pragma unroll
            for (int k = 0; k < kN; ++k) {
              const Factors<S>& f = factors[k];
              const Chunk chunk = Chunk::of(c, kPlanes<S, kTerms, kN>, f.target).from(u);
              put(&values.v[k], objective.gradient(objective.reference(f.offset), f, chunk, j,
                                                   x[u + j].v[k], q[j][k]));
            }
            if (j < last) store_values<S, kN>(to, values);
            to += back.grad_strides.classes;
          }
        });
      });
    });
  }
}

}  // namespace fused_ce::cuda
