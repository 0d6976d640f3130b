// What forward leaves behind for rows: losses, their sums, and the numbers for backward.
#pragma once

#include "objective.cuh"
#include "plan.h"

namespace fused_ce::cuda {

// What the threads of a block found, added up by one of them and left for total.cuh. Every block's
// share of the rows follows from the problem alone, and so do the bits of the sum.
template <class A>
struct BlockTotals {
  Sum<A> loss, weight;

  __device__ void add(A row_loss, A row_weight) {
    loss.add(row_loss);
    weight.add(row_weight);
  }

  // All threads of the block call this once, as the last thing they do.
  __device__ void put(Partial* partials) const {
    __shared__ Sum<double> losses[kBlock / kWarp], weights[kBlock / kWarp];
    Sum<double> l = widened(loss), w = widened(weight);
    for (int distance = kWarp / 2; distance > 0; distance /= 2) {
      l.add(other(l, distance));
      w.add(other(w, distance));
    }
    if (threadIdx.x % kWarp == 0) {
      losses[threadIdx.x / kWarp] = l;
      weights[threadIdx.x / kWarp] = w;
    }
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (unsigned i = 1; i < blockDim.x / kWarp; ++i) {
      l.add(losses[i]);
      w.add(weights[i]);
    }
    partials[blockIdx.x] = {l.total(), w.total(), kNoBadRow};
  }

 private:
  static __device__ Sum<double> widened(const Sum<A>& sum) {
    Sum<double> wide{static_cast<double>(sum.high), 0};
    if (is_finite(sum.high)) wide.add(static_cast<double>(sum.low));
    return wide;
  }
  static __device__ Sum<double> other(const Sum<double>& sum, int distance) {
    return {__shfl_xor_sync(0xffffffffu, sum.high, distance),
            __shfl_xor_sync(0xffffffffu, sum.low, distance)};
  }
};

// What backward will need of a row.
template <class A>
__device__ inline void put_saved(const Saved& saved, int64_t i, const SavedRow<A>& row) {
  static_cast<A*>(saved.reference)[i] = row.reference;
  static_cast<A*>(saved.sum)[i] = row.sum;
  static_cast<A*>(saved.target_or_mass)[i] = row.target_or_mass;
}

// Finishes row i of the problem, whose state this is.
template <class S, Terms kTerms, class A = Accumulate<S>>
__device__ inline void put_row(const Objective<S, kTerms>& objective, const RowState<A>& row,
                               int64_t i, const Forward& out, BlockTotals<A>& totals) {
  const A loss = objective.finish(row);
  if (out.saved.reference) put_saved(out.saved, i, objective.saved(row));
  if (out.loss) put_number<A>(out.loss, out.loss_dtype, i, loss);
  totals.add(loss, row.target_weight);
}

}  // namespace fused_ce::cuda
