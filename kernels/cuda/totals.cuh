// SPDX-License-Identifier: BSD-3-Clause
// The reduced loss: from what threads add up of their rows to what all tiles come to.
#pragma once

#include "math.cuh"
#include "numbers.cuh"
#include "plan.h"
#include "tiles.h"

namespace fused_ce::cuda {

// What a thread has of a tile. Pairs of the accumulate type: double would cost most GPUs more.
template <class A>
struct RowTotals {
  Sum<A> sums[kTileSums];

  __device__ void add(A loss, A weight, A z_loss) {
    sums[kLossSum].add(loss);
    sums[kWeightSum].add(weight);
    if (z_loss != 0) sums[kZLossSum].add(z_loss);  // of most problems there is none
  }
};

// A sum of sums: in double, which holds float's to twice their digits.
template <class A>
struct WideSum {
  double sum = 0;

  static __device__ WideSum of(const Sum<A>& own) {
    const A low = is_finite(own.high) ? own.low : A(0);
    return {static_cast<double>(own.high) + static_cast<double>(low)};
  }
  __device__ void add(const WideSum& other) { sum += other.sum; }
  __device__ double total() const { return sum; }
};
template <>
struct WideSum<double> {
  Sum<double> sum;

  static __device__ WideSum of(const Sum<double>& own) { return {own}; }
  __device__ void add(const WideSum& other) { sum.add(other.sum); }
  __device__ double total() const { return sum.total(); }
};

// kThreads: those of a block, all of which have one.
template <class A, int kThreads>
class Reducer {
  static constexpr int kWarps = kThreads / kWarp;

 public:
  explicit __device__ Reducer(const Tiles& tiles) : tiles_(tiles) {}

  // Leaves the sums of a tile, which are the callers' together: of one thread, a warp, or the
  // whole block. The last has tiles that are gridDim.x apart.
  template <int kCallers>
  __device__ void put(unsigned tile, const RowTotals<A>& totals) const {
    static_assert(kCallers == 1 || kCallers == kWarp || kCallers == kThreads);
    // Who still reads those of one tile cannot meet who writes those of the next.
    double (&parts)[kTileSums][kWarps] = shared().parts[tile / gridDim.x % 2];
    for_wanted([&](int k) {
      WideSum<A> sum = WideSum<A>::of(totals.sums[k]);
      if constexpr (kCallers > 1) {
        sum = sum_of_warp(sum);
        if (!is_first_lane()) return;
      }
      if constexpr (kCallers > kWarp) {
        parts[k][threadIdx.x / kWarp] = sum.total();
      } else {
        place(k)[tile] = sum.total();
      }
    });
    if constexpr (kCallers > kWarp) {
      if (tiles_.wanted) __syncthreads();
      if (threadIdx.x == 0) {
        for_wanted([&](int k) {
          WideSum<A> sum;
          for (const double part : parts[k]) sum.add({part});
          place(k)[tile] = sum.total();
        });
      }
    }
  }

  // What every thread does last. The last block that does it writes the call's totals.
  __device__ void finish() const {
    if (!tiles_.wanted || (tiles_.count > 1 && !tiles_.ticket.is_last_block())) return;
    WideSum<A>(&parts)[kTileSums][kWarps] = shared().all;
    for_wanted([&](int k) {
      const double* const sums = place(k);
      WideSum<A> sum;
#pragma unroll(1024 / kThreads)
      for (unsigned i = threadIdx.x; i < tiles_.count; i += kThreads) sum.add({sums[i]});
      sum = sum_of_warp(sum);
      if (is_first_lane()) parts[k][threadIdx.x / kWarp] = sum;
    });
    __syncthreads();
    if (threadIdx.x != 0) return;
    double sums[kTileSums] = {};
    for_wanted([&](int k) {
      WideSum<A> sum;
      for (const WideSum<A>& part : parts[k]) sum.add(part);
      sums[k] = sum.total();
    });
    write(sums);
  }

 private:
  struct Shared {
    double parts[2][kTileSums][kWarps];
    WideSum<A> all[kTileSums][kWarps];
    double alone[kTileSums];  // of a problem of one tile
  };
  static __device__ Shared& shared() {
    __shared__ Shared all_of_it;
    return all_of_it;
  }

  static __device__ bool is_first_lane() { return threadIdx.x % kWarp == 0; }
  __device__ double* place(int k) const {
    return tiles_.count > 1 ? tiles_.sums[k] : shared().alone + k;
  }
  // f(k) for the sums that are asked for.
  template <class F>
  __device__ __forceinline__ void for_wanted(F f) const {
#pragma unroll
    for (int k = 0; k < kTileSums; ++k) {
      if (tiles_.wants[k]) f(k);
    }
  }

  template <class T>
  static __device__ T other(T value, int distance) {
    return __shfl_xor_sync(kWholeWarp, value, distance);
  }
  template <class T>
  static __device__ Sum<T> other(const Sum<T>& sum, int distance) {
    return {other(sum.high, distance), other(sum.low, distance)};
  }
  template <class T>
  static __device__ WideSum<T> other(const WideSum<T>& sum, int distance) {
    return {other(sum.sum, distance)};
  }

  // Over a warp's lanes, in all of them.
  static __device__ WideSum<A> sum_of_warp(WideSum<A> sum) {
    for (int distance = kWarp / 2; distance > 0; distance /= 2) sum.add(other(sum, distance));
    return sum;
  }

  __device__ void write(const double (&sums)[kTileSums]) const {
    const Totals& totals = tiles_.totals;
    const double total_weight = totals.normalizer ? *totals.normalizer
                                : tiles_.weighted ? sums[kWeightSum]
                                                  : tiles_.rows_in_all;
    if (totals.total_weight) *totals.total_weight = total_weight;
    const auto put_reduced = [&](void* to, double sum) {
      if (totals.reduction == Reduction::kMean) sum /= total_weight;
      if (to) put_number<double>(to, totals.loss_dtype, 0, sum);
    };
    put_reduced(totals.loss, sums[kLossSum] + tiles_.nothing);
    put_reduced(totals.z_loss, sums[kZLossSum]);
  }

  const Tiles& tiles_;
};

}  // namespace fused_ce::cuda
