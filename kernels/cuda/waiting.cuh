// SPDX-License-Identifier: BSD-3-Clause
// Rows that wait for their finish. A block sums some rows one after the other, and none of its
// warps waits for another meanwhile: each leaves its part of a row's sums here, and goes on. Then
// one warp finishes them all, a lane a row: a finish takes as many instructions as some hundred
// classes, whether one lane goes through it or all.
#pragma once

#include "row_reader.cuh"

namespace fused_ce::cuda {

template <class A>
struct RowHead {
  A reference, target_logit;
  int64_t target;  // or a NoClass
};

// Rows of a block that are finished together. Of teams that are a block there are parts from
// several warps.
template <class T>
inline constexpr int kRowsTogether = T::kWarps > 1 ? 8 : kWarp;

template <class T, class A, Terms kTerms>
struct WaitingRows {
  static constexpr int kRows = kRowsTogether<T>;
  RowSums<A, kTerms> parts[kRows][T::kWarps];
  RowHead<A> heads[kRows];
  unsigned again;  // a bit for each row that has to be summed again
};

// Which rows a block has, in which order: the rows of a tile lie side by side, and blocks take
// turns with tiles.
struct BlockRows {
  int64_t rows;
  int tile_rows;

  // The r-th row of the block, or one beyond the last of all.
  __device__ __forceinline__ int64_t operator()(int64_t r) const {
    const int64_t tile = blockIdx.x + r / tile_rows * gridDim.x;
    return tile * tile_rows + r % tile_rows;
  }
};

// The part of a thread's warp in the sums of a row, and what they are relative to.
template <class A, Terms kTerms>
struct RowPart {
  RowSums<A, kTerms> sums;
  RowHead<A> head;
};

// Forward of a block's rows. sum(team, i, y, guessed): this warp's RowPart of row i, whose target
// is y; guessed: whether it may be relative to a guess, which may turn out to be no good.
template <class S, Terms kTerms, int kThreads, class F>
__device__ void forward_of_rows(const Objective<S, kTerms>& objective, const Forward& out,
                                Partial* partials, F sum) {
  using A = Accumulate<S>;
  using T = Team<kThreads, A, kTerms>;
  using Waiting = WaitingRows<T, A, kTerms>;
  constexpr int kRows = Waiting::kRows;
  __shared__ typename T::Shared shared;
  __shared__ Waiting waiting;
  T team(shared);
  const BlockRows row{rows_of(objective.problem), T::kTeams};
  const unsigned mine = threadIdx.x;  // the row that a thread finishes, of those that wait
  BlockTotals<A> totals;

  // Finishes row i, the r-th that waits. Whether it has to be summed again.
  const auto finish = [&](unsigned r, int64_t i, bool guessed) {
    const RowHead<A> head = waiting.heads[r];
    RowState<A> state = ignored_state<A>();
    if (is_read(objective, head.target, out)) {
      RowSums<A, kTerms> sums = waiting.parts[r][0];
#pragma unroll 1
      for (int k = 1; k < T::kWarps; ++k) sums.merge(waiting.parts[r][k], head.reference);
      state = objective.state(sums, head.reference, head.target, head.target_logit);
      if (guessed && !objective.is_in_range(state)) return true;
    }
    put_row(objective, state, i, out, totals);
    return false;
  };

  // What stands for a row's target is asked for while the row before it is summed.
  int64_t next = row(T::index());
  int64_t next_index = next < row.rows ? objective.index(next) : 0;
  for (int64_t first = 0; row(first) < row.rows; first += kRows) {
    unsigned left = 0xffffffffu;  // a bit for each of the rows
#pragma unroll 1
    for (bool guessed = true; left != 0; guessed = false) {
#pragma unroll 1
      for (int r = T::index(); r < kRows; r += T::kTeams) {
        const int64_t i = row(first + r);
        if (i >= row.rows) break;
        if (!(left >> r & 1)) continue;
        int64_t y;
        if (guessed) {
          y = objective.target_of(next_index);
          next = row(first + r + T::kTeams);
          if (next < row.rows) next_index = objective.index(next);
        } else {
          y = waiting.heads[r].target;
        }
        const RowPart<A, kTerms> part = is_read(objective, y, out)
                                            ? sum(team, i, y, guessed)
                                            : RowPart<A, kTerms>{{}, {0, 0, y}};
        if (T::lane() == 0) waiting.parts[r][T::warp()] = part.sums;
        if (T::thread() == 0) waiting.heads[r] = part.head;
      }
      __syncthreads();
      if (mine < kWarp) {
        const int64_t i = mine < kRows ? row(first + mine) : row.rows;
        const bool again = i < row.rows && (left >> mine & 1) && finish(mine, i, guessed);
        left = __ballot_sync(0xffffffffu, again);
        if (mine == 0) waiting.again = left;
      }
      __syncthreads();
      left = waiting.again;
    }
  }
  totals.put(partials);
}

}  // namespace fused_ce::cuda
