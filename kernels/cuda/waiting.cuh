// SPDX-License-Identifier: BSD-3-Clause
// Rows that wait for their finish. A block sums some rows one after the other, and none of its
// warps waits for another meanwhile: each leaves its part of a row's sums here, and goes on. Then
// one warp finishes them all, a lane a row: a finish takes as many instructions as some hundred
// classes, whether one lane goes through it or all.
#pragma once

#include "row_reader.cuh"

namespace fused_ce::cuda {

// What is left of a row beside its sums.
template <class A>
struct RowHead {
  A reference, target_logit;
  int64_t target;  // or a NoClass
};

// The part of one warp in the sums of a row, and what they are relative to.
template <class A, Terms kTerms>
struct RowPart {
  RowSums<A, kTerms> sums;
  RowHead<A> head;
};

// Rows of a block that wait together. Of teams that are a block there are parts from several warps.
template <class T>
inline constexpr int kRowsTogether = T::kWarps > 1 ? 8 : kWarp;

template <class T, class A, Terms kTerms>
struct WaitingRows {
  static constexpr unsigned kRows = kRowsTogether<T>;
  RowSums<A, kTerms> parts[kRows][T::kWarps];
  RowHead<A> heads[kRows];
  int64_t indices[kRows];      // what stands in memory for their targets
  RowTotals<A> totals[kWarp];  // of the tile up to now, a lane each
  unsigned again;              // a bit for each row that has to be summed again
};

// Room for a T in shared memory, which begins as it is: no constructor runs.
template <class T>
struct Room {
  alignas(T) unsigned char bytes[sizeof(T)];

  __device__ T& get() { return reinterpret_cast<T&>(bytes); }
};

// The rows of a block that wait together: of one tile, or, where a tile is a row, of several tiles.
// (Two registers; what follows from them is worked out where it is needed.)
class WaitingBatch {
 public:
  __device__ WaitingBatch(const Tiles& tiles, int64_t rows, unsigned together)
      : tiles_(&tiles), rows_(rows), together_(together), tile_(blockIdx.x) {}

  __device__ bool is_there() const { return tile_ < tiles_->count; }
  __device__ unsigned tile() const { return tile_; }
  __device__ bool has_a_row_a_tile() const { return tiles_->rows == 1; }
  // The r-th row, and whether there is such a row.
  __device__ int64_t row(unsigned r) const {
    return tiles_->begin(tile_) + place_ + (has_a_row_a_tile() ? int64_t{r} * gridDim.x : r);
  }
  __device__ bool has(int64_t row) const {
    return row < (has_a_row_a_tile() ? rows_ : tiles_->end(tile_, rows_));
  }
  __device__ bool begins_tile() const { return place_ == 0; }
  __device__ bool ends_tile() const { return has_a_row_a_tile() || !has(row(together_)); }

  __device__ WaitingBatch next() const {
    WaitingBatch batch = *this;
    if (ends_tile()) {
      batch.tile_ += gridDim.x * (has_a_row_a_tile() ? together_ : 1);
      batch.place_ = 0;
    } else {
      batch.place_ += together_;
    }
    return batch;
  }

 private:
  const Tiles* tiles_;
  int64_t rows_;
  unsigned together_;
  unsigned tile_;       // the first of them
  unsigned place_ = 0;  // of the first row in its tile
};

// Forward of a block's rows. sum(team, i, y, guessed): this warp's RowPart of row i, whose target
// is y; guessed: whether it may be relative to a guess, which may turn out to be no good.
template <class S, Terms kTerms, int kThreads, class F>
__device__ void forward_of_rows(const Objective<S, kTerms>& objective, const Forward& out,
                                const Tiles& tiles, F sum) {
  using A = Accumulate<S>;
  using T = Team<kThreads, A, kTerms>;
  using Waiting = WaitingRows<T, A, kTerms>;
  constexpr unsigned kRows = Waiting::kRows;
  __shared__ typename T::Shared shared;
  __shared__ Room<Waiting> room;
  Waiting& waiting = room.get();
  T team(shared);
  const Reducer<A, T::kBlockThreads> reducer(tiles);
  const unsigned mine = threadIdx.x;  // the row that a thread finishes, of those that wait

  // Finishes row i, the r-th that waits. Whether it has to be summed again.
  const auto finish = [&](unsigned r, int64_t i, bool guessed, RowTotals<A>& totals) {
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

  WaitingBatch batch(tiles, rows_of(objective.problem), kRows);
  // What stands for the targets of a batch is asked for while the batch before it is finished.
  const auto index_of = [&](const WaitingBatch& of) {
    const int64_t i = of.row(mine);
    return mine < kRows && of.is_there() && of.has(i) ? objective.index(i) : 0;
  };
  if (mine < kRows) waiting.indices[mine] = index_of(batch);
  __syncthreads();
#pragma unroll 1
  for (; batch.is_there(); batch = batch.next()) {
    // Whether the r-th row has yet to be summed.
    const auto is_left = [&](unsigned r, bool guessed) {
      return guessed || waiting.again >> r & 1;
    };
#pragma unroll 1
    for (bool guessed = true; guessed || waiting.again != 0; guessed = false) {
#pragma unroll 1
      for (unsigned r = T::index(); r < kRows; r += T::kTeams) {
        const int64_t i = batch.row(r);
        if (!batch.has(i)) break;
        if (!is_left(r, guessed)) continue;
        const int64_t y = objective.target_of(waiting.indices[r]);
        const RowPart<A, kTerms> part = is_read(objective, y, out)
                                            ? sum(team, i, y, guessed)
                                            : RowPart<A, kTerms>{{}, {0, 0, y}};
        if (T::lane() == 0) waiting.parts[r][T::warp()] = part.sums;
        if (T::thread() == 0) waiting.heads[r] = part.head;
      }
      __syncthreads();
      if (mine < kWarp) {
        const int64_t next_index = index_of(batch.next());
        const int64_t i = batch.row(mine);
        const bool is_mine = mine < kRows && batch.has(i) && is_left(mine, guessed);
        RowTotals<A> totals;
        const bool is_first = batch.has_a_row_a_tile() || (guessed && batch.begins_tile());
        if (!is_first) totals = waiting.totals[mine];
        const bool again = is_mine && finish(mine, i, guessed, totals);
        const unsigned left = __ballot_sync(kWholeWarp, again);
        __syncwarp();  // a ballot orders no memory, and other lanes have read what lane 0 writes
        if (mine == 0) waiting.again = left;
        if (batch.has_a_row_a_tile()) {
          if (is_mine && !again) reducer.template put<1>(static_cast<unsigned>(i), totals);
        } else if (left == 0 && batch.ends_tile()) {
          reducer.template put<kWarp>(batch.tile(), totals);
        } else {
          waiting.totals[mine] = totals;
        }
        if (mine < kRows && left == 0) waiting.indices[mine] = next_index;
      }
      __syncthreads();
    }
  }
  reducer.finish();
}

}  // namespace fused_ce::cuda
