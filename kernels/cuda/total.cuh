// SPDX-License-Identifier: BSD-3-Clause
// The reduced loss: the blocks' partial sums, added up in a fixed order by one block.
#pragma once

#include "cuda.h"
#include "math.cuh"
#include "numbers.cuh"

namespace fused_ce::cuda {

inline constexpr int kTotalBlock = 256;

// `weighted`: whether a mean divides by the rows' weights, or by `rows`. `empty`: the loss of no
// rows.
__global__ void __launch_bounds__(kTotalBlock)
    total(const Partial* partials, const int64_t count, const bool weighted, const double rows,
          const double empty, const Totals totals) {
  __shared__ Sum<double> losses[kTotalBlock], weights[kTotalBlock], z_losses[kTotalBlock];
  const int thread = static_cast<int>(threadIdx.x);
  Sum<double> loss, weight, z_loss;
  for (int64_t i = thread; i < count; i += kTotalBlock) {
    loss.add(partials[i].loss);
    weight.add(partials[i].weight);
    z_loss.add(partials[i].z_loss);
  }
  losses[thread] = loss;
  weights[thread] = weight;
  z_losses[thread] = z_loss;
  for (int half = kTotalBlock / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) {
      losses[thread].add(losses[thread + half]);
      weights[thread].add(weights[thread + half]);
      z_losses[thread].add(z_losses[thread + half]);
    }
  }
  if (thread != 0) return;
  const double total_weight = totals.normalizer ? *totals.normalizer
                              : weighted        ? weights[0].total()
                                                : rows;
  if (totals.total_weight) *totals.total_weight = total_weight;
  const auto put_reduced = [&](void* to, double sum) {
    if (totals.reduction == Reduction::kMean) sum /= total_weight;
    if (to) put_number<double>(to, totals.loss_dtype, 0, sum);
  };
  put_reduced(totals.loss, losses[0].total() + empty);
  put_reduced(totals.z_loss, z_losses[0].total());
}

}  // namespace fused_ce::cuda
