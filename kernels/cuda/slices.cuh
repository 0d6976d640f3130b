// SPDX-License-Identifier: BSD-3-Clause
// Rows so long, and so few, that a block a row would leave most of the GPU idle: each row is cut
// into slices of classes, one block each, whose sums meet in a second kernel. All blocks of a row
// guess the same reference, so its slices add up as if one block had done it; in a fixed order.
// (Backward needs no second kernel: rows_backward takes slices.)
#pragma once

#include "rows.cuh"

namespace fused_ce::cuda {

template <class S, Terms kTerms>
__global__ void __launch_bounds__(kBlock, kRowBlocks<S, kTerms>)
    slices_forward(const Objective<S, kTerms> objective, RowSums<Accumulate<S>, kTerms>* slice_sums,
                   const Forward out, const int64_t slices, const int64_t slice_classes) {
  using A = Accumulate<S>;
  using T = Team<kBlock, A, kTerms>;
  __shared__ typename T::Shared shared;
  T team(shared);
  const int64_t classes = objective.problem.classes;
  const int64_t items = rows_of(objective.problem) * slices;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t i = item / slices, begin = item % slices * slice_classes;
    const int64_t end = begin + slice_classes < classes ? begin + slice_classes : classes;
    const int64_t y = objective.target(i);
    if (!is_read(objective, y, out)) continue;
    const RowReader<S, kTerms> row(objective, i, 0, classes), slice(objective, i, begin, end);
    const A m = guess<S, kTerms>(row, classes, team, y);
    const RowSums<A, kTerms> sums = team.sum(slice.sum(T::thread(), T::kSize, m, y), m);
    if (T::thread() == 0) slice_sums[item] = sums;
  }
}

template <class S, Terms kTerms>
__global__ void __launch_bounds__(kBlock, kRowBlocks<S, kTerms>)
    slices_finish(const Objective<S, kTerms> objective, const Forward out,
                  const RowSums<Accumulate<S>, kTerms>* slice_sums, const int64_t slices,
                  const Tiles tiles) {
  using A = Accumulate<S>;
  using T = Team<kBlock, A, kTerms>;
  __shared__ typename T::Shared shared;
  T team(shared);
  const int64_t rows = rows_of(objective.problem), classes = objective.problem.classes;
  const Reducer<A, kBlock> reducer(tiles);
  for (unsigned t = blockIdx.x; t < tiles.count; t += gridDim.x) {
    RowTotals<A> totals;
    for (int64_t i = tiles.begin(t); i < tiles.end(t, rows); ++i) {
      const int64_t y = objective.target(i);
      RowState<A> row = ignored_state<A>();
      if (is_read(objective, y, out)) {
        const RowReader<S, kTerms> reader(objective, i, 0, classes);
        const A m = guess<S, kTerms>(reader, classes, team, y);
        RowSums<A, kTerms> sums;
        for (int64_t k = T::thread(); k < slices; k += T::kSize)
          sums.merge(slice_sums[i * slices + k], m);
        row = objective.state(team.sum(sums, m), m, y, is_class(y) ? reader.logit(y) : A(0));
        if (!objective.is_in_range(row))
          row = sum_row<S, kTerms>(objective, i, y, team, /*guessed=*/false);
      }
      if (T::thread() == 0) put_row(objective, row, i, out, totals);
    }
    if (T::thread() == 0) reducer.template put<1>(t, totals);
  }
  reducer.finish();
}

}  // namespace fused_ce::cuda
