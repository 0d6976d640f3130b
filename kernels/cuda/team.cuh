// The threads that share a row: a part of a warp, a warp, or a block.
#pragma once

#include "finish.cuh"
#include "plan.h"

namespace fused_ce::cuda {

template <int kThreads, class A, Terms kTerms>
class Team {
  using Sums = RowSums<A, kTerms>;
  static_assert(kThreads <= kWarp || kThreads == kBlock);
  static constexpr int kLanes = kThreads < kWarp ? kThreads : kWarp;
  static constexpr int kWarps = kThreads / kLanes;

 public:
  static constexpr int kSize = kThreads;
  static constexpr int kTeams = kBlock / kThreads;  // in a block

  struct Shared {  // two of each: who reads the one cannot meet who writes the next
    Sums sums[2][kWarps];
    A largest[2][kWarps];
  };

  explicit __device__ Team(Shared& shared) : shared_(shared) {}

  static __device__ int index() { return static_cast<int>(threadIdx.x) / kThreads; }
  static __device__ int thread() { return static_cast<int>(threadIdx.x) % kThreads; }

  // The sum over the team's threads, the same exponentials in each of them.
  __device__ Sums sum(Sums sums) {
    for (int distance = kLanes / 2; distance > 0; distance /= 2) sums.add(other(sums, distance));
    if constexpr (kWarps > 1) {
      Sums(&parts)[kWarps] = shared_.sums[turn_];
      turn_ ^= 1;
      if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = sums;
      __syncthreads();
      sums = parts[0];
      for (int i = 1; i < kWarps; ++i) sums.add(parts[i]);
    }
    return sums;
  }

  // The largest of the threads' values; NaN does not count.
  __device__ A largest(A value) {
    for (int distance = kLanes / 2; distance > 0; distance /= 2)
      value = larger(value, __shfl_xor_sync(mask(), value, distance));
    if constexpr (kWarps > 1) {
      A(&parts)[kWarps] = shared_.largest[turn_];
      turn_ ^= 1;
      if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = value;
      __syncthreads();
      value = parts[0];
      for (int i = 1; i < kWarps; ++i) value = larger(value, parts[i]);
    }
    return value;
  }

 private:
  // The lanes of the team in its warp: the warp's other teams may be elsewhere in the program.
  static __device__ unsigned mask() {
    constexpr unsigned kFirst = 0xffffffffu >> (kWarp - kLanes);
    return kFirst << (threadIdx.x % kWarp / kLanes * kLanes);
  }

  static __device__ Sums other(const Sums& sums, int distance) {
    const auto of = [&](A value) { return __shfl_xor_sync(mask(), value, distance); };
    const auto of_sum = [&](const Sum<A>& sum) { return Sum<A>{of(sum.high), of(sum.low)}; };
    Sums others;  // ptxas would not drop the shuffles of what stays 0
    others.exponentials = of_sum(sums.exponentials);
    if constexpr (kTerms != Terms::kIndices) others.linear = of_sum(sums.linear);
    if constexpr (kTerms == Terms::kProbabilities) {
      others.mass = of_sum(sums.mass);
      const Term<A>& pivot = sums.pivot;
      others.pivot = {of(pivot.exponential), of(pivot.distance), of(pivot.weight)};
    }
    return others;
  }

  Shared& shared_;
  int turn_ = 0;
};

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

}  // namespace fused_ce::cuda
