// SPDX-License-Identifier: BSD-3-Clause
// Rows whose classes are neighbours: a team of threads a row. One read of the logits forward; one
// read and one write backward.
#pragma once

#include "row_gradients.cuh"
#include "waiting.cuh"

namespace fused_ce::cuda {

// Blocks a multiprocessor must have room for. With three of kBlock threads a thread has at most 80
// registers, with two 128, with one 255; of smaller blocks there are as many more. Left to itself,
// ptxas takes up to 240 for some architectures, and spills at 48 for others. For sm_75 it spills at
// 80, so there class indices have two as well.
template <class S, Terms kTerms, int kTeam>
inline constexpr int kForwardBlocks =
    kBlock / block_of(kTeam) *
    (sizeof(S) == 8 ? (kHasLinear<kTerms> ? 1 : 2) : (kHasLinear<kTerms> || kIsTuring ? 2 : 3));
template <class S, Terms kTerms, int kTeam>
inline constexpr int kBackwardBlocks = kBlock / block_of(kTeam) *
                                       (kHasMass<kTerms>     ? 2 - (sizeof(S) == 8)
                                        : kIsGeneral<kTerms> ? 2
                                                             : 3 - (sizeof(S) == 8));

// A warp's part of row i, relative to a guess or to the row's largest logit.
template <class S, Terms kTerms, class Team, class A = Accumulate<S>>
__device__ RowPart<A, kTerms> sum_of_row(const Objective<S, kTerms>& objective, Team& team,
                                         int64_t i, int64_t y, bool guessed) {
  const int64_t classes = objective.problem.classes;
  const RowReader<S, kTerms, Team::kSize> reader(objective, i, 0, classes);
  const A target_logit = is_class(y) ? reader.logit(y) : A(0);
  const auto first = reader.first();
  const A m =
      guessed ? guess<Team>(reader, classes, y, target_logit) : team.largest(reader.largest());
  return {Team::sum_of_lanes(reader.sum(first, m, y), m), {m, target_logit, y}};
}

template <class S, Terms kTerms, int kThreads>
__global__ void __launch_bounds__(block_of(kThreads), kForwardBlocks<S, kTerms, kThreads>)
    rows_forward(const Objective<S, kTerms> objective, const Forward out, const Tiles tiles) {
  forward_of_rows<S, kTerms, kThreads>(
      objective, out, tiles, [&](auto& team, int64_t i, int64_t y, bool guessed) {
        return sum_of_row<S, kTerms>(objective, team, i, y, guessed);
      });
}

// A row's gradient is cut into `slices`, each of which is one team's. Threads work out the factors
// of some of them at once, one thread each.
template <class S, Terms kTerms, int kThreads>
__global__ void __launch_bounds__(block_of(kThreads), kBackwardBlocks<S, kTerms, kThreads>)
    rows_backward(const Objective<S, kTerms> objective, const Backward back, const int64_t slices,
                  const int64_t slice_classes) {
  using A = Accumulate<S>;
  using T = Team<kThreads, A, kTerms>;
  constexpr int kTogether = kRowsTogether<T>;
  __shared__ Factors<S> factors[kTogether];
  const Problem& p = objective.problem;
  const int64_t all = rows_of(p) * slices, classes = p.classes;
  // The r-th of a block's slices: teams have neighbours, blocks take turns.
  const auto slice = [&](int64_t r) {
    return (blockIdx.x + r / T::kTeams * gridDim.x) * T::kTeams + r % T::kTeams;
  };
  // Where there is one a row, nobody has to divide.
  const auto row_of = [&](int64_t its) { return slices == 1 ? its : its / slices; };
  for (int64_t first = 0; slice(first) < all; first += kTogether) {
    const int mine = static_cast<int>(threadIdx.x);
    if (mine < kTogether && slice(first + mine) < all)
      factors[mine] = objective.factors(back, row_of(slice(first + mine)));
    __syncthreads();
#pragma unroll 1
    for (int r = T::index(); r < kTogether; r += T::kTeams) {
      const int64_t its = slice(first + r);
      if (its >= all) break;
      const int64_t i = row_of(its), begin = (its - i * slices) * slice_classes;
      const int64_t end = begin + slice_classes < classes ? begin + slice_classes : classes;
      const RowOfGradients<S> grad{
          static_cast<S*>(back.grad_logits) + row_offset(p, back.grad_strides, i),
          back.grad_strides.classes};
      write_gradients<S, kTerms, kThreads>(objective, factors[r], i, begin, end, grad);
    }
    __syncthreads();
  }
}

}  // namespace fused_ce::cuda
