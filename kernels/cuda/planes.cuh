// SPDX-License-Identifier: BSD-3-Clause
// Planes: logits whose neighbours in memory are rows ((N,C,d1..) and transposed matrices), read in
// place. A thread has kN neighbouring rows, and walks through the classes; a warp reads a run of
// each plane.
#pragma once

#include "rows.cuh"

namespace fused_ce::cuda {

// Planes whose loads are under way at once.
inline constexpr int kPlanes = 4;
// Classes whose largest logit is the first guess of a row's reference.
inline constexpr int64_t kProbedPlanes = 8;
// How far a target's z may be above a guessed reference: its exponential fits, and the sum too.
template <class S>
inline constexpr Accumulate<S> kFarTarget =
    Accumulate<S>(0.69) * ((sizeof(S) == 8 ? 1000 : 126) - ReferenceConstants<S>::kHeadroomBits);
// As kForwardBlocks in rows.cuh: at most 96 registers a thread, and 168; 255 of double.
template <class S, Terms kTerms>
inline constexpr int kPlaneBlocks = sizeof(S) == 8       ? 2
                                    : kHasLinear<kTerms> ? 3
                                                         : 5;

// kN rows side by side: rows [i, i + kN) of the problem.
template <class S, Terms kTerms, int kN>
class PlaneReader {
  using A = Accumulate<S>;

 public:
  __device__ PlaneReader(const Objective<S, kTerms>& objective, int64_t i)
      : objective_(objective),
        logits_(static_cast<const S*>(objective.problem.logits) +
                row_offset(objective.problem, objective.problem.logits_strides, i)),
        probabilities_(objective.probabilities(i)) {}

  // Calls f(q) with the weights of the logits of n classes from c in the linear sums.
  template <int n, class F>
  __device__ __forceinline__ void with_weights(int64_t c, F f) const {
    objective_.template with_weights_of_rows<n, kN>(probabilities_, c, f);
  }

  // Calls f(c, x) for the logits x[u] of classes c + u, some at once: all classes < `classes`.
  template <class F>
  __device__ __forceinline__ void for_planes(int64_t classes, F f) const {
    const int64_t stride = objective_.problem.logits_strides.classes;
    int64_t c = 0;
#pragma unroll 1
    for (; c + kPlanes <= classes; c += kPlanes) {
      Values<S, kN> values[kPlanes];
#pragma unroll
      for (int u = 0; u < kPlanes; ++u) values[u] = load_values<S, kN>(logits_ + (c + u) * stride);
      f(c, values);
    }
#pragma unroll 1
    for (; c < classes; ++c) {
      const Values<S, kN> values[1] = {load_values<S, kN>(logits_ + c * stride)};
      f(c, values);
    }
  }

  __device__ void find_largest(int64_t classes, A (&m)[kN]) const {
    for (int k = 0; k < kN; ++k) m[k] = -infinity<A>();
    for_planes(classes, [&]<int n>(int64_t, const Values<S, kN>(&x)[n]) {
#pragma unroll
      for (int u = 0; u < n; ++u) {
#pragma unroll
        for (int k = 0; k < kN; ++k) m[k] = larger(m[k], get(x[u].v[k]));
      }
    });
    for (int k = 0; k < kN; ++k) m[k] = objective_.logit(m[k]);
  }

  // The rows' states relative to m. y: their targets, or NoClass.
  __device__ void sum(const A (&m)[kN], const int64_t (&y)[kN], RowState<A> (&rows)[kN]) const {
    RowSums<A, kTerms> sums[kN];
    A target_logit[kN] = {}, finite[kN];
#pragma unroll
    for (int k = 0; k < kN; ++k) finite[k] = objective_.finite(m[k]);
    for_planes(objective_.problem.classes, [&]<int n>(int64_t c, const Values<S, kN>(&x)[n]) {
      with_weights<n>(c, [&](const A(&q)[n][kN]) {
#pragma unroll
        for (int k = 0; k < kN; ++k) {
          // Made anew for each chunk: what it takes is less than the registers it would hold.
          const Reference<S> ref = objective_.reference(finite[k]);
          const Chunk chunk = Chunk::of(c, n, y[k]);
          S numbers[n];
          A z[n], weights[n];
#pragma unroll
          for (int u = 0; u < n; ++u) {
            numbers[u] = x[u].v[k];
            weights[u] = q[u][k];
          }
          objective_.logits(numbers, z);
          objective_.add(sums[k], chunk, 0, n, ref, m[k], z, weights);
#pragma unroll
          for (int u = 0; u < n; ++u) target_logit[k] = u == chunk.target ? z[u] : target_logit[k];
        }
      });
    });
#pragma unroll
    for (int k = 0; k < kN; ++k) rows[k] = objective_.state(sums[k], m[k], y[k], target_logit[k]);
  }

 private:
  const Objective<S, kTerms>& objective_;
  const S* const logits_;
  const int64_t probabilities_;
};

template <class S, Terms kTerms, int kN>
__global__ void __launch_bounds__(kPlaneBlock, kPlaneBlocks<S, kTerms>)
    planes_forward(const Objective<S, kTerms> objective, const Forward out, const Tiles tiles) {
  using A = Accumulate<S>;
  const int64_t rows = rows_of(objective.problem), classes = objective.problem.classes;
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
      int64_t probed = classes < kProbedPlanes ? classes : kProbedPlanes;
#pragma unroll 1
      for (;; probed = classes) {
        reader.find_largest(probed, m);
        reader.sum(m, y, row);
        bool in_range = true;
#pragma unroll
        for (int k = 0; k < kN; ++k) {
          // The target's own exponential is not in the sum.
          const A lead = objective.distance(m[k], row[k].pivot_logit);
          const bool far = is_class(y[k]) && !(lead < kFarTarget<S>);
          in_range &= !is_read(objective, y[k], out) || (!far && objective.is_in_range(row[k]));
        }
        if (in_range || probed == classes) break;
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
__global__ void __launch_bounds__(kPlaneBlock, kPlaneBlocks<S, kTerms>)
    planes_backward(const Objective<S, kTerms> objective, const Backward back) {
  using A = Accumulate<S>;
  const Problem& p = objective.problem;
  const int64_t rows = rows_of(p), step = int64_t{gridDim.x} * kPlaneBlock * kN;
  for (int64_t i = (int64_t{blockIdx.x} * kPlaneBlock + threadIdx.x) * kN; i < rows; i += step) {
    const PlaneReader<S, kTerms, kN> reader(objective, i);
    S* const grad = static_cast<S*>(back.grad_logits) + row_offset(p, back.grad_strides, i);
    Factors<S> factors[kN];
#pragma unroll
    for (int k = 0; k < kN; ++k) factors[k] = objective.factors(back, i + k);
    reader.for_planes(p.classes, [&]<int n>(int64_t c, const Values<S, kN>(&x)[n]) {
      reader.template with_weights<n>(c, [&](const A(&q)[n][kN]) {
#pragma unroll
        for (int u = 0; u < n; ++u) {
          Values<S, kN> values;
#pragma unroll
          for (int k = 0; k < kN; ++k) {
            const Factors<S>& f = factors[k];
            put(&values.v[k], objective.gradient(objective.reference(f.offset), f,
                                                 Chunk::of(c, n, f.target), u, x[u].v[k], q[u][k]));
          }
          store_values<S, kN>(grad + (c + u) * back.grad_strides.classes, values);
        }
      });
    });
  }
}

}  // namespace fused_ce::cuda
