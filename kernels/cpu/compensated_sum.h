// The sum of many rows, as if it were added up exactly and rounded once: every addition's rounding
// error is kept in a second sum (Knuth, TAOCP 2, 4.2.2: TwoSum; Ogita, Rump & Oishi, SIAM J. Sci.
// Comput. 26, 2005). A million equal losses would otherwise drift by a million half-ulps.
#pragma once

#include "vec.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

class CompensatedSum {
  using V = Vec<double>;

 public:
  void add(const double* values, int n) {
    V sum = sum_, lost = lost_;  // in registers, not in memory
    const auto add = [&](V v) {
      const V s = sum + v;
      lost += error_of(sum, v, s);
      sum = s;
    };
    int i = 0;
    for (; i + kLanes<double> <= n; i += kLanes<double>) add(load(values + i));
    V rest{};
    for (int k = 0; i + k < n; ++k) rest[k] = values[i + k];
    add(rest);
    sum_ = sum, lost_ = lost;
  }

  // Whole numbers, whose sums are exact.
  void count(const double* values, int n) {
    V sum = sum_;
    int i = 0;
    for (; i + kLanes<double> <= n; i += kLanes<double>) sum += load(values + i);
    for (; i < n; ++i) sum[0] += values[i];
    sum_ = sum;
  }

  double total() const {
    double sum = 0, lost = 0;
    for (int k = 0; k < kLanes<double>; ++k) {
      const double s = sum + sum_[k];
      lost += error_of(sum, sum_[k], s) + lost_[k];
      sum = s;
    }
    return sum - sum == 0 ? sum + lost : sum;  // the error of an infinite sum is no number
  }

 private:
  template <class T>
  static T error_of(T a, T b, T s) {
    const T back = s - a;
    return (a - (s - back)) + (b - back);
  }

  V sum_{}, lost_{};
};

}  // namespace fused_ce::cpu::FUSED_CE_ISA
