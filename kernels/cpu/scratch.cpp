#include "scratch.h"

#include <stdlib.h>

#include <new>

namespace fused_ce::cpu {
namespace {

struct Block {
  void* memory = nullptr;
  size_t bytes = 0;
  ~Block() { free(memory); }
};
thread_local Block block;  // a pointer and no array: that would lie at the end of the stack

}  // namespace

void* scratch(size_t bytes) {
  constexpr size_t kLine = 64;
  if (bytes > block.bytes) {
    const size_t lines = (bytes + kLine - 1) / kLine * kLine;
    void* const memory = aligned_alloc(kLine, lines);
    if (!memory) throw std::bad_alloc();
    free(block.memory);
    block.memory = memory;
    block.bytes = lines;
  }
  return block.memory;
}

}  // namespace fused_ce::cpu
