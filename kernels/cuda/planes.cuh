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
// How far a target's logit may be above a guessed reference: its exponential fits, and the sum too.
template <class S>
inline constexpr Accumulate<S> kFarTarget =
    Accumulate<S>(0.69) * ((sizeof(S) == 8 ? 1000 : 126) - ReferenceConstants<S>::kHeadroomBits);
// As kRowBlocks in rows.cuh: at most 96 registers a thread, and 168; 255 of double.
template <class S, Terms kTerms>
inline constexpr int kPlaneBlocks = sizeof(S) == 8              ? 2
                                    : kTerms == Terms::kIndices ? 5
                                                                : 3;

// kN rows side by side: rows [i, i + kN) of the problem.
template <class S, Terms kTerms, int kN>
class PlaneReader {
  using A = Accumulate<S>;

 public:
  __device__ PlaneReader(const SmoothedProblem<S>& p, int64_t i)
      : p_(p),
        logits_(static_cast<const S*>(p.logits) + row_offset(p, p.logits_strides, i)),
        probabilities_(probabilities_offset(p, i)) {}

  // Calls f(q) with the weights of the logits of n classes from c in the linear sums.
  template <int n, class F>
  __device__ __forceinline__ void with_weights(int64_t c, F f) const {
    with_weights_of_rows<kTerms, n, kN>(p_, probabilities_, c, f);
  }

  // Calls f(c, x) for the logits x[u] of classes c + u, some at once: all classes < `classes`.
  template <class F>
  __device__ __forceinline__ void for_planes(int64_t classes, F f) const {
    const int64_t stride = p_.logits_strides.classes;
    int64_t c = 0;
    for (; c + kPlanes <= classes; c += kPlanes) {
      Values<S, kN> values[kPlanes];
#pragma unroll
      for (int u = 0; u < kPlanes; ++u) values[u] = load_values<S, kN>(logits_ + (c + u) * stride);
      f(c, values);
    }
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
  }

  // The rows' sums relative to m, and the targets' logits.
  __device__ void sum(const A (&m)[kN], const int64_t (&y)[kN], Row<A> (&rows)[kN]) const {
    RowSums<A, kTerms> sums[kN];
    A target_logit[kN] = {};
    for_planes(p_.classes, [&]<int n>(int64_t c, const Values<S, kN>(&x)[n]) {
      with_weights<n>(c, [&](const A(&q)[n][kN]) {
#pragma unroll
        for (int k = 0; k < kN; ++k) {
          // Made anew for each few planes: what it takes is less than the registers it would hold.
          const Reference<S> ref(Offset<S>::of(m[k]));
          const int target = place_of(y[k], c, n);
          PlainSums<A, kTerms> plain;
#pragma unroll
          for (int u = 0; u < n; ++u) {
            const A logit = get(x[u].v[k]);
            plain.add(u, sums[k].entering({ref.exp(logit), m[k] - logit, q[u][k]}, u == target));
            target_logit[k] = u == target ? logit : target_logit[k];
          }
          sums[k].add(plain);
        }
      });
    });
    for (int k = 0; k < kN; ++k) {
      rows[k] = finished_sums(sums[k], m[k], y[k], target_logit[k],
                              y[k] >= 0 ? weight_of<A>(p_, y[k]) : A(0));
    }
  }

 private:
  const SmoothedProblem<S>& p_;
  const S* const logits_;
  const int64_t probabilities_;
};

template <class S, Terms kTerms, int kN>
__global__ void __launch_bounds__(kPlaneBlock, kPlaneBlocks<S, kTerms>)
    planes_forward(const SmoothedProblem<S> p, const Forward out, Partial* partials) {
  using A = Accumulate<S>;
  constexpr bool indices = kTerms != Terms::kProbabilities;
  const int64_t rows = rows_of(p), step = int64_t{gridDim.x} * kPlaneBlock * kN;
  BlockTotals<A> totals;
  for (int64_t i = (int64_t{blockIdx.x} * kPlaneBlock + threadIdx.x) * kN; i < rows; i += step) {
    const PlaneReader<S, kTerms, kN> reader(p, i);
    int64_t y[kN];
    for (int k = 0; k < kN; ++k) y[k] = target_of(p, i + k);
    A m[kN];
    Row<A> row[kN];
    reader.find_largest(p.classes < kProbedPlanes ? p.classes : kProbedPlanes, m);
    reader.sum(m, y, row);
    bool in_range = true;
    for (int k = 0; k < kN; ++k) {
      // The target's own exponential is not in the sum.
      const bool far = indices && !(row[k].target_logit - m[k] < kFarTarget<S>);
      in_range &= (indices && y[k] < 0) || (!far && is_in_range<S, kTerms>(row[k], p.classes));
    }
    if (!in_range) {
      reader.find_largest(p.classes, m);
      reader.sum(m, y, row);
    }
    for (int k = 0; k < kN; ++k) {
      if (indices && y[k] < 0) row[k] = ignored_row<A>();
      const A loss = loss_of<S, kTerms>(p, row[k]);
      put_row<kTerms>(out, i + k, row[k], loss);
      totals.add(loss, row[k].target_weight);
    }
  }
  totals.put(partials);
}

template <class S, Terms kTerms, int kN>
__global__ void __launch_bounds__(kPlaneBlock, kPlaneBlocks<S, kTerms>)
    planes_backward(const SmoothedProblem<S> p, const Backward back) {
  using A = Accumulate<S>;
  const int64_t rows = rows_of(p), step = int64_t{gridDim.x} * kPlaneBlock * kN;
  for (int64_t i = (int64_t{blockIdx.x} * kPlaneBlock + threadIdx.x) * kN; i < rows; i += step) {
    const PlaneReader<S, kTerms, kN> reader(p, i);
    S* const grad = static_cast<S*>(back.grad_logits) + row_offset(p, back.grad_strides, i);
    Factors<S> factors[kN];
    for (int k = 0; k < kN; ++k) factors[k] = factors_of<S, kTerms>(p, back, i + k);
    reader.for_planes(p.classes, [&]<int n>(int64_t c, const Values<S, kN>(&x)[n]) {
      reader.template with_weights<n>(c, [&](const A(&q)[n][kN]) {
#pragma unroll
        for (int u = 0; u < n; ++u) {
          Values<S, kN> values;
#pragma unroll
          for (int k = 0; k < kN; ++k) {
            const Factors<S>& f = factors[k];
            put(&values.v[k], gradient<S, kTerms>(Reference<S>(f.offset), f, c + u == f.target,
                                                  get(x[u].v[k]), q[u][k]));
          }
          store_values<S, kN>(grad + (c + u) * back.grad_strides.classes, values);
        }
      });
    });
  }
}

}  // namespace fused_ce::cuda
