// SPDX-License-Identifier: BSD-3-Clause
// Sums in double. Of float terms a double has digits to spare; of doubles, every addition's
// rounding error is kept in a second sum (Knuth, TAOCP 2, 4.2.2: TwoSum; Ogita, Rump & Oishi, SIAM
// J. Sci. Comput. 26, 2005). A million equal terms would otherwise drift by a million half-ulps.
#pragma once

#include "vec.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

// What a + b is more than `sum`, which it was rounded to.
template <class T>
FUSED_CE_INLINE T rounding_error(T a, T b, T sum) {
  const T back = sum - a;
  return (a - (sum - back)) + (b - back);
}

// The sums of each lane, and what they have lost.
struct CompensatedLanes {
  Vec<double> sum{}, lost{};
  FUSED_CE_INLINE void add(Vec<double> v) {
    const Vec<double> next = sum + v;
    lost += rounding_error(sum, v, next);
    sum = next;
  }
  FUSED_CE_INLINE Vec<double> total() const {  // the error of an infinite sum is no number
    return sum - sum == 0.0 ? sum + lost : sum;
  }
};

// The sums of each lane, of terms too few to lose digits.
template <class T>
struct LaneSum;
template <>
struct LaneSum<double> {
  Vec<double> sum{};
  FUSED_CE_INLINE void add(Vec<double> v) { sum += v; }
  void put(double* p) const { store(p, sum); }
};
template <>
struct LaneSum<float> {
  Widened sum{};
  FUSED_CE_INLINE void add(Vec<float> v) {
    const Widened w = widen(v);
    sum.low += w.low, sum.high += w.high;
  }
  void put(double* p) const { store(p, sum.low), store(p + kLanes<double>, sum.high); }
};

// The sum of all lanes, in a vector that is still to be added up.
template <class T>
struct RowSum;
template <>
struct RowSum<double> : CompensatedLanes {
  Vec<double> lanes() const { return total(); }
};
template <>
struct RowSum<float> {
  Vec<double> sum{};
  FUSED_CE_INLINE void add(Vec<float> v) {
    const Widened w = widen(v);
    sum += w.low + w.high;
  }
  Vec<double> lanes() const { return sum; }
};

inline double sum_of_lanes(Vec<double> v) {
  return fold_lanes<double>(v, [](auto a, auto b) { return a + b; });
}

// The sum of an array and others, rounded once.
class CompensatedSum {
 public:
  void add(const double* values, int n) {
    CompensatedLanes sums = sums_;  // in registers, not in memory
    int i = 0;
    for (; i + kLanes<double> <= n; i += kLanes<double>) sums.add(load(values + i));
    Vec<double> rest{};
    for (int k = 0; i + k < n; ++k) rest[k] = values[i + k];
    sums.add(rest);
    sums_ = sums;
  }

  // The same, and to another sum whole numbers, whose sums are exact: each addition waits for the
  // one before, so that two sums together take no longer than one.
  void add_and_count(const double* values, CompensatedSum& counts, const double* numbers, int n) {
    CompensatedLanes sums = sums_;
    Vec<double> count = counts.sums_.sum, rest{};
    int i = 0;
    for (; i + kLanes<double> <= n; i += kLanes<double>) {
      sums.add(load(values + i));
      count += load(numbers + i);
    }
    for (int k = 0; i + k < n; ++k) rest[k] = values[i + k], count[0] += numbers[i + k];
    sums.add(rest);
    sums_ = sums;
    counts.sums_.sum = count;
  }

  double total() const {
    double sum = 0, lost = 0;
    for (int k = 0; k < kLanes<double>; ++k) {
      const double next = sum + sums_.sum[k];
      lost += rounding_error<double>(sum, sums_.sum[k], next) + sums_.lost[k];
      sum = next;
    }
    return sum - sum == 0 ? sum + lost : sum;
  }

 private:
  CompensatedLanes sums_;
};

}  // namespace fused_ce::cpu::FUSED_CE_ISA
