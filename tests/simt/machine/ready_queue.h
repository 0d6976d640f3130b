// SPDX-License-Identifier: BSD-3-Clause
// The threads of a block that can run, in the order in which they became ready.
#pragma once

#include <stdint.h>

#include "../machine.h"
#include "fiber.h"

namespace simt::machine {

constexpr int kMaxThreads = 1024;

class ReadyQueue {
 public:
  SIMT_UNCHECKED void clear() { head_ = count_ = 0; }
  SIMT_UNCHECKED bool empty() const { return count_ == 0; }
  SIMT_UNCHECKED void push(int number) { at(count_++) = number; }

  SIMT_UNCHECKED int pop(Order order) {
    int place = 0;
    if (order == Order::kLifo) place = count_ - 1;
    if (order == Order::kRandom) place = static_cast<int>(random() % static_cast<unsigned>(count_));
    const int number = at(place);
    --count_;
    if (place == 0) {
      head_ = (head_ + 1) % kMaxThreads;
    } else {
      at(place) = at(count_);
    }
    return number;
  }

  void seed(uint64_t seed) { random_ = seed * 2654435761u + 1; }
  SIMT_UNCHECKED unsigned random() {  // Knuth's MMIX generator
    random_ = random_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<unsigned>(random_ >> 33);
  }

 private:
  SIMT_UNCHECKED int& at(int place) { return numbers_[(head_ + place) % kMaxThreads]; }

  int numbers_[kMaxThreads];
  int head_ = 0, count_ = 0;
  uint64_t random_ = 1;
};

}  // namespace simt::machine
