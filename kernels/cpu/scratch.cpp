// SPDX-License-Identifier: BSD-3-Clause
#include "scratch.h"

#include <stdlib.h>

#include <new>

namespace fused_ce::cpu {
namespace {

struct Block {
  void* memory = nullptr;
  size_t bytes = 0;
  ~Block() { free(memory); }

  void* of(size_t least) {
    constexpr size_t kLine = 64;
    if (least > bytes) {
      const size_t lines = (least + kLine - 1) / kLine * kLine;
      void* const larger = aligned_alloc(kLine, lines);
      if (!larger) throw std::bad_alloc();
      free(memory);
      memory = larger;
      bytes = lines;
    }
    return memory;
  }
};
// Pointers and no arrays: those would lie at the end of the stack.
thread_local Block loops, logits;

}  // namespace

void* scratch(size_t bytes) { return loops.of(bytes); }
void* staging(size_t bytes) { return logits.of(bytes); }

}  // namespace fused_ce::cpu
