// SPDX-License-Identifier: BSD-3-Clause
// Choices out of a fuzzer's bytes. Where they run out, every choice is the first.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

namespace fused_ce::testing {

class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : next_(data), end_(data + size) {}

  // 0, 1, ... or n - 1; takes no more bytes than n has.
  int64_t below(int64_t n) {
    uint64_t value = 0;
    for (uint64_t left = n > 1 ? static_cast<uint64_t>(n - 1) : 0; left > 0; left >>= 8)
      value = value << 8 | (next_ < end_ ? *next_++ : 0);
    return n > 1 ? static_cast<int64_t>(value % static_cast<uint64_t>(n)) : 0;
  }
  bool one_in(int64_t n) { return below(n) == n - 1; }
  template <class T, size_t kN>
  T one_of(const T (&choices)[kN]) {
    return choices[below(kN)];
  }

 private:
  const uint8_t *next_, *end_;
};

// Numbers that fill what is too large to be chosen byte by byte (splitmix64: Steele, Lea, Flood,
// OOPSLA 2014).
class Random {
 public:
  explicit Random(int64_t seed) : state_(static_cast<uint64_t>(seed)) {}

  double uniform() {  // in [0, 1)
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53;
  }
  double normal() {  // nearly
    return (uniform() + uniform() + uniform() + uniform() - 2) * 1.7320508075688772;
  }

 private:
  uint64_t state_;
};

}  // namespace fused_ce::testing
