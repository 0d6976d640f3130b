// The reduced loss: the blocks' partial sums, added up in a fixed order by one block.
#pragma once

#include "cuda.h"
#include "math.cuh"
#include "numbers.cuh"

namespace fused_ce::cuda {

inline constexpr int kTotalBlock = 256;

// `rows`: what the mean of probabilities divides by; that of class indices, by the targets'
// weights. `empty`: the loss of no rows.
__global__ void __launch_bounds__(kTotalBlock)
    total(const Partial* partials, const int64_t count, const bool indices, const double rows,
          const double empty, const Totals totals) {
  __shared__ Sum<double> losses[kTotalBlock], weights[kTotalBlock];
  const int thread = static_cast<int>(threadIdx.x);
  Sum<double> loss, weight;
  for (int64_t i = thread; i < count; i += kTotalBlock) {
    loss.add(partials[i].loss);
    weight.add(partials[i].weight);
  }
  losses[thread] = loss;
  weights[thread] = weight;
  for (int half = kTotalBlock / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) {
      losses[thread].add(losses[thread + half]);
      weights[thread].add(weights[thread + half]);
    }
  }
  if (thread != 0) return;
  const double total_weight = indices ? weights[0].total() : rows;
  const double sum = losses[0].total() + empty;
  if (totals.total_weight) *totals.total_weight = total_weight;
  if (totals.loss) {
    put_number<double>(totals.loss, totals.loss_dtype, 0,
                       totals.reduction == Reduction::kMean ? sum / total_weight : sum);
  }
}

}  // namespace fused_ce::cuda
