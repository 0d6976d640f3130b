// SPDX-License-Identifier: BSD-3-Clause
// Rows so long, and so few, that a block a row would leave most of the GPU idle: each row is cut
// into slices of classes, one block each, whose sums meet in a second kernel. All blocks of a row
// guess the same reference, so its slices add up as if one block had done it; in a fixed order.
// (Backward needs no second kernel: rows_backward takes slices.)
#pragma once

#include "rows.cuh"

namespace fused_ce::cuda {

// Each warp leaves what it has of a slice: no block waits for all of its warps.
template <class S, Terms kTerms>
__global__ void __launch_bounds__(kBlock, kForwardBlocks<S, kTerms, kBlock>)
    slices_forward(const Objective<S, kTerms> objective, RowSums<Accumulate<S>, kTerms>* slice_sums,
                   const Forward out, const int64_t slices, const int64_t slice_classes) {
  using A = Accumulate<S>;
  using T = Team<kBlock, A, kTerms>;
  const int64_t classes = objective.problem.classes;
  const int64_t items = rows_of(objective.problem) * slices;
  // What stands for a slice's target is asked for while the slice before it is summed.
  const auto index_of = [&](int64_t item) {
    return item < items ? objective.index(item / slices) : int64_t{0};
  };
  int64_t next_index = index_of(blockIdx.x);
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t i = item / slices, begin = item % slices * slice_classes;
    const int64_t end = begin + slice_classes < classes ? begin + slice_classes : classes;
    const int64_t y = objective.target_of(next_index);
    next_index = index_of(item + gridDim.x);
    if (!is_read(objective, y, out)) continue;
    const RowReader<S, kTerms, kBlock> slice(objective, i, begin, end);
    const A target_logit = is_class(y) ? slice.logit(y) : A(0);
    const auto first = slice.first();
    const A m = guess<T>(slice, classes, y, target_logit);
    const RowSums<A, kTerms> sums = T::sum_of_lanes(slice.sum(first, m, y), m);
    if (T::lane() == 0) slice_sums[item * T::kWarps + T::warp()] = sums;
  }
}

template <class S, Terms kTerms>
__global__ void __launch_bounds__(kBlock, kForwardBlocks<S, kTerms, kBlock>)
    slices_finish(const Objective<S, kTerms> objective, const Forward out,
                  const RowSums<Accumulate<S>, kTerms>* slice_sums, const int64_t slices,
                  const Tiles tiles) {
  using A = Accumulate<S>;
  const int64_t classes = objective.problem.classes;
  forward_of_rows<S, kTerms, kBlock>(
      objective, out, tiles,
      [&](auto& team, int64_t i, int64_t y, bool guessed) -> RowPart<A, kTerms> {
        using T = Team<kBlock, A, kTerms>;
        if (!guessed) return sum_of_row<S, kTerms>(objective, team, i, y, guessed);
        const RowReader<S, kTerms, kBlock> reader(objective, i, 0, classes);
        const A target_logit = is_class(y) ? reader.logit(y) : A(0);
        const A m = guess<T>(reader, classes, y, target_logit);
        const int64_t parts = slices * T::kWarps;
        RowSums<A, kTerms> sums;
        for (int64_t k = T::thread(); k < parts; k += T::kSize)
          sums.merge(slice_sums[i * parts + k], m);
        return {T::sum_of_lanes(sums, m), {m, target_logit, y}};
      });
}

}  // namespace fused_ce::cuda
