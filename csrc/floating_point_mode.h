// SPDX-License-Identifier: BSD-3-Clause
// The floating point mode that the calling thread computes in: what happens to denormal numbers
// (torch.set_flush_denormal), and the rounding. Every thread has its own.
#pragma once

#include <cstdint>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace fused_ce {

class FloatingPointMode {
#if defined(__SSE2__)
  using Word = uint32_t;
  static Word read() { return _mm_getcsr(); }
  static void write(Word word) { _mm_setcsr(word); }
  static constexpr Word kMode = ~Word{0x3f};  // the others are flags of what happened
#elif defined(__aarch64__)
  using Word = uint64_t;
  static Word read() {
    Word word;
    asm volatile("mrs %0, fpcr" : "=r"(word));
    return word;
  }
  static void write(Word word) { asm volatile("msr fpcr, %0" : : "r"(word)); }
  static constexpr Word kMode = ~Word{0};
#else
  using Word = int;
  static Word read() { return 0; }
  static void write(Word) {}
  static constexpr Word kMode = 0;
#endif

 public:
  // As long as it lives, the calling thread computes in another's mode.
  class Guard {
   public:
    explicit Guard(const FloatingPointMode& mode)
        : changes_(((mode.word_ ^ before_) & kMode) != 0) {
      if (changes_) write(mode.word_);
    }
    ~Guard() {
      if (changes_) write(before_);
    }
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;

   private:
    const Word before_ = read();
    const bool changes_;  // a thread that is in the mode keeps the exception flags it raises
  };

 private:
  const Word word_ = read();  // of the thread that made it
};

}  // namespace fused_ce
