// SPDX-License-Identifier: BSD-3-Clause
// The threads that share a row: a part of a warp, a warp, or a block.
#pragma once

#include "plan.h"
#include "sums.cuh"

namespace fused_ce::cuda {

template <int kThreads, class A, Terms kTerms>
class Team {
  using All = RowSums<A, kTerms>;
  static_assert(kThreads <= kWarp || kThreads == kBlock);
  static constexpr int kLanes = kThreads < kWarp ? kThreads : kWarp;
  static constexpr int kWarps = kThreads / kLanes;

 public:
  static constexpr int kSize = kThreads;
  static constexpr int kTeams = kBlock / kThreads;  // in a block

  struct Shared {  // two of each: who reads the one cannot meet who writes the next
    All sums[2][kWarps];
    A largest[2][kWarps];
  };

  explicit __device__ Team(Shared& shared) : shared_(shared) {}

  static __device__ int index() { return static_cast<int>(threadIdx.x) / kThreads; }
  static __device__ int thread() { return static_cast<int>(threadIdx.x) % kThreads; }

  // The sum over the team's threads, the same exponentials in each of them. m: the reference.
  __device__ All sum(All sums, A m) {
    for (int distance = kLanes / 2; distance > 0; distance /= 2) {
      sums.merge(other(sums, distance), m);
    }
    if constexpr (kWarps > 1) {
      All(&parts)[kWarps] = shared_.sums[turn_];
      turn_ ^= 1;
      if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = sums;
      __syncthreads();
      sums = parts[0];
      for (int i = 1; i < kWarps; ++i) sums.merge(parts[i], m);
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
