// A sum that keeps what its additions round away (Neumaier, ZAMM 54, 1974), as the kernels'
// (kernels/cpu/sum.h) do: a million equal numbers would otherwise drift by a million half-ulps.
#pragma once

#include <cmath>

namespace fused_ce {

class CompensatedSum {
 public:
  void add(double value) {
    const double s = sum_ + value;
    lost_ += std::abs(sum_) >= std::abs(value) ? (sum_ - s) + value : (value - s) + sum_;
    sum_ = s;
  }
  // The error of an infinite sum is no number.
  double total() const { return std::isfinite(sum_) ? sum_ + lost_ : sum_; }

 private:
  double sum_ = 0, lost_ = 0;
};

}  // namespace fused_ce
