// SPDX-License-Identifier: BSD-3-Clause
// Which block of a grid is the last to end, told by an atomic counter: it decides who adds up what
// the blocks left, never what is added.
#pragma once

#include "platform.cuh"

namespace fused_ce::cuda {

// A word of device memory whose contents do not matter: there is no launch that would clear it. So
// each call has a number of its own, drawn by lot and counted on (see launch.cu), which stands in
// the word's upper 48 bits beside up to 2^16 - 1 arrivals. Where another number stands, nobody has
// arrived. The last block clears the word: a CUDA graph repeats a call with its number, and finds
// it as it must. What else may lie there has the number by a chance of 2^-48.
struct Ticket {
  using Word = unsigned long long;  // what CUDA's atomics take
  static constexpr int kArrivalBits = 16;

  Word* word;
  Word number;  // in the upper bits; 0 below

  // Called once by one thread of each block: whether all others have called it.
  __device__ bool arrive() const {
    Word seen = *static_cast<volatile Word*>(word);
    while (seen >> kArrivalBits != number >> kArrivalBits) {
      const Word found = atomicCAS(word, seen, number);
      if (found == seen) break;
      seen = found;
    }
    // An addition, not one more exchange: of many blocks that end at once, exchanges let one pass
    // in the time it takes to memory and back.
    const Word before = atomicAdd(word, Word{1}) - number;
    if (before + 1 < gridDim.x) return false;
    *word = 0;
    return true;
  }

  // Called by all threads of a block. True in the last block, whose threads then see what all
  // others wrote before they called this.
  __device__ bool is_last_block() const {
    __shared__ bool last;
    __syncthreads();
    if (threadIdx.x == 0) {
      __threadfence();
      last = arrive();
      __threadfence();
    }
    __syncthreads();
    return last;
  }
};

}  // namespace fused_ce::cuda
