// SPDX-License-Identifier: BSD-3-Clause
// The threads that share a row: a part of a warp, a warp, or a block. Those of them that are in one
// warp, its lanes, add up what they have without waiting for the others: each warp's part of a row
// is put together with the other warps' where rows are finished (waiting.cuh).
#pragma once

#include "plan.h"
#include "sums.cuh"

namespace fused_ce::cuda {

template <int kThreads, class A, Terms kTerms>
class Team {
  using All = RowSums<A, kTerms>;
  static_assert(kThreads <= kWarp || kThreads == kBlock);

 public:
  static constexpr int kSize = kThreads;
  static constexpr int kBlockThreads = block_of(kThreads);
  static constexpr int kTeams = kBlockThreads / kThreads;  // in a block
  static constexpr int kLanes = kThreads < kWarp ? kThreads : kWarp;
  static constexpr int kWarps = kThreads / kLanes;  // parts that a row's sums come in

  struct Shared {  // two: who reads the one cannot meet who writes the next
    A largest[2][kWarps];
  };

  explicit __device__ Team(Shared& shared) : shared_(shared) {}

  static __device__ int index() { return static_cast<int>(threadIdx.x) / kThreads; }
  static __device__ int thread() { return static_cast<int>(threadIdx.x) % kThreads; }
  static __device__ int warp() { return thread() / kLanes; }
  static __device__ int lane() { return thread() % kLanes; }

  // The sum over the warp's lanes, the same exponentials in each of them. m: the reference.
  static __device__ All sum_of_lanes(All sums, A m) {
    for (int distance = kLanes / 2; distance > 0; distance /= 2) {
      sums.merge(other(sums, distance), m);
    }
    return sums;
  }
  // The largest of the lanes' values; NaN does not count.
  static __device__ A largest_of_lanes(A value) {
    for (int distance = kLanes / 2; distance > 0; distance /= 2)
      value = larger(value, __shfl_xor_sync(mask(), value, distance));
    return value;
  }

  // The largest of all the team's threads' values.
  __device__ A largest(A value) {
    value = largest_of_lanes(value);
    if constexpr (kWarps > 1) {
      A(&parts)[kWarps] = shared_.largest[turn_];
      turn_ ^= 1;
      if (lane() == 0) parts[warp()] = value;
      __syncthreads();
      value = parts[0];
      for (int i = 1; i < kWarps; ++i) value = larger(value, parts[i]);
    }
    return value;
  }

 private:
  // The lanes of the team in its warp: the warp's other teams may be elsewhere in the program.
  static __device__ unsigned mask() {
    constexpr unsigned kFirst = kWholeWarp >> (kWarp - kLanes);
    return kFirst << (threadIdx.x % kWarp / kLanes * kLanes);
  }

  static __device__ All other(const All& sums, int distance) {
    const auto of = [&](A value) { return __shfl_xor_sync(mask(), value, distance); };
    const auto of_sum = [&](const Sum<A>& sum) { return Sum<A>{of(sum.high), of(sum.low)}; };
    All others;  // ptxas would not drop the shuffles of what stays 0
    others.exponentials = of_sum(sums.exponentials);
    if constexpr (kHasLinear<kTerms>) others.linear = of_sum(sums.linear);
    if constexpr (kHasMass<kTerms>) {
      others.mass = of_sum(sums.mass);
      others.pivot.weight = of(sums.pivot.weight);
    }
    if constexpr (kHasPivot<kTerms>) {
      others.pivot.logit = of(sums.pivot.logit);
      others.pivot.exponential = of(sums.pivot.exponential);
    }
    if constexpr (kIsGeneral<kTerms>) {
      others.pivot.index = __shfl_xor_sync(mask(), sums.pivot.index, distance);
      others.gap = of_sum(sums.gap);
      others.nan = __shfl_xor_sync(mask(), sums.nan, distance);
    }
    return others;
  }

  Shared& shared_;
  int turn_ = 0;
};

}  // namespace fused_ce::cuda
