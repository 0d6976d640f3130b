// Rows so long, and so few, that a block a row would leave most of the GPU idle: each row is cut
// into slices of classes, one block each, whose sums meet in a second kernel. All blocks of a row
// guess the same reference, so its slices add up as if one block had done it; in a fixed order.
// (Backward needs no second kernel: rows_backward takes slices.)
#pragma once

#include "rows.cuh"

namespace fused_ce::cuda {

template <class S, Terms kTerms>
__global__ void __launch_bounds__(kBlock, kRowBlocks<S, kTerms>)
    slices_forward(const SmoothedProblem<S> p, RowSums<Accumulate<S>, kTerms>* slice_sums,
                   const int64_t slices, const int64_t slice_classes) {
  using A = Accumulate<S>;
  using T = Team<kBlock, A, kTerms>;
  __shared__ typename T::Shared shared;
  T team(shared);
  constexpr bool indices = kTerms != Terms::kProbabilities;
  const int64_t items = rows_of(p) * slices;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t i = item / slices, begin = item % slices * slice_classes;
    const int64_t end = begin + slice_classes < p.classes ? begin + slice_classes : p.classes;
    const int64_t y = target_of(p, i);
    if (indices && y < 0) continue;
    const A m = guess<S, kTerms>(p, RowReader<S, kTerms>(p, i, 0, p.classes), team, y);
    const RowReader<S, kTerms> reader(p, i, begin, end);
    const RowSums<A, kTerms> sums = team.sum(reader.sums(T::thread(), T::kSize, m, y));
    if (T::thread() == 0) slice_sums[item] = sums;
  }
}

template <class S, Terms kTerms>
__global__ void __launch_bounds__(kBlock, kRowBlocks<S, kTerms>)
    slices_finish(const SmoothedProblem<S> p, const Forward out,
                  const RowSums<Accumulate<S>, kTerms>* slice_sums, const int64_t slices,
                  Partial* partials) {
  using A = Accumulate<S>;
  using T = Team<kBlock, A, kTerms>;
  __shared__ typename T::Shared shared;
  T team(shared);
  constexpr bool indices = kTerms != Terms::kProbabilities;
  BlockTotals<A> totals;
  for (int64_t i = blockIdx.x; i < rows_of(p); i += gridDim.x) {
    const int64_t y = target_of(p, i);
    Row<A> row = ignored_row<A>();
    if (!indices || y >= 0) {
      const RowReader<S, kTerms> reader(p, i, 0, p.classes);
      const A m = guess<S, kTerms>(p, reader, team, y);
      RowSums<A, kTerms> sums;
      for (int64_t k = T::thread(); k < slices; k += T::kSize) sums.add(slice_sums[i * slices + k]);
      sums = team.sum(sums);
      row = finished_sums(sums, m, y, y >= 0 ? reader.logit(y) : A(0),
                          y >= 0 ? weight_of<A>(p, y) : A(0));
      if (!is_in_range<S, kTerms>(row, p.classes))
        row = sum_row<S, kTerms>(p, i, y, team, /*guessed=*/false);
    }
    if (T::thread() != 0) continue;
    const A loss = loss_of<S, kTerms>(p, row);
    put_row<kTerms>(out, i, row, loss);
    totals.add(loss, row.target_weight);
  }
  totals.put(partials);
}

}  // namespace fused_ce::cuda
