// SPDX-License-Identifier: BSD-3-Clause
// A sum that keeps what its additions round away (Knuth's TwoSum, The Art of Computer Programming
// 2, 4.2.2), as the kernels' (kernels/cpu/double_sum.h) do: a million equal numbers would otherwise
// drift by a million half-ulps.
#pragma once

#include <cmath>
#include <cstdint>

namespace fused_ce {

class CompensatedSum {
 public:
  void add(double value) {
    const double s = sum_ + value, back = s - sum_;
    lost_ += (sum_ - (s - back)) + (value - back);
    sum_ = s;
  }
  void add(const CompensatedSum& other) {
    add(other.sum_);
    lost_ += other.lost_;
  }
  // The error of an infinite sum is no number.
  double total() const { return std::isfinite(sum_) ? sum_ + lost_ : sum_; }

 private:
  double sum_ = 0, lost_ = 0;
};

// In an order that depends on the count alone, and in several chains: one would wait for each of
// its additions.
template <class T>
double compensated_sum(const T* values, int64_t count) {
  constexpr int kChains = 16;
  CompensatedSum chains[kChains];
  int64_t i = 0;
  for (; i + kChains <= count; i += kChains) {
    for (int k = 0; k < kChains; ++k) chains[k].add(static_cast<double>(values[i + k]));
  }
  for (int k = 0; i < count; ++i, ++k) chains[k].add(static_cast<double>(values[i]));
  for (int k = 1; k < kChains; ++k) chains[0].add(chains[k]);
  return chains[0].total();
}

}  // namespace fused_ce
