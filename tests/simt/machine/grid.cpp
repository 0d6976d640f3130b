// SPDX-License-Identifier: BSD-3-Clause
#include "grid.h"

#include <string.h>

#include <memory>
#include <numeric>

#include "block.h"
#include "failure.h"
#include "scheduler.h"
#include "shared_memory.h"

namespace simt::machine {
namespace {

// Block numbers in the order in which they run.
class BlockOrder {
 public:
  BlockOrder(uint64_t first, uint64_t size) : first_(first), size_(size) {
    if (order != Order::kRandom || size == 0) return;
    // A permutation without a table: steps of a size that has no divisor in common with the number
    // of blocks come by each of them once.
    offset_ = ready_queue.random() % size;
    do {
      step_ = ready_queue.random() % size + 1;
    } while (std::gcd(step_, size) != 1);
  }
  uint64_t operator[](uint64_t i) const {
    if (order == Order::kLifo) return first_ + (size_ - 1 - i);
    __extension__ using Wide = unsigned __int128;
    return first_ + static_cast<uint64_t>((Wide{i} * step_ + offset_) % size_);
  }

 private:
  uint64_t first_, size_, step_ = 1, offset_ = 0;
};

}  // namespace

void run_grid(const Configuration& configuration, Selection blocks_to_run, uint8_t poison) {
  const dim3 grid = configuration.grid;
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  become_scheduler();
  create_threads();
  const Bytes static_shared = thread_locals();
  // Of the exact size, for AddressSanitizer. 16-byte aligned, as operator new does.
  const std::unique_ptr<unsigned char[]> dynamic_shared(
      configuration.shared_bytes == 0 ? nullptr : new unsigned char[configuration.shared_bytes]);

  block = {{0, 0, 0}, configuration.block, grid, dynamic_shared.get()};
  const uint64_t end = blocks_to_run.last < blocks ? blocks_to_run.last + 1 : blocks;
  const uint64_t selected = blocks_to_run.first < end ? end - blocks_to_run.first : 0;
  const BlockOrder numbers(blocks_to_run.first, selected);
  for (uint64_t i = 0; i < selected && !failed; ++i) {
    const uint64_t number = numbers[i];
    block.index = {static_cast<unsigned>(number % grid.x),
                   static_cast<unsigned>(number / grid.x % grid.y),
                   static_cast<unsigned>(number / grid.x / grid.y)};
    if (static_shared.size != 0) memset(static_shared.begin, poison, static_shared.size);
    if (dynamic_shared) memset(dynamic_shared.get(), poison, configuration.shared_bytes);
    run_block();
  }
  if (failed) abandon_threads();
  block.dynamic_shared = nullptr;
}

}  // namespace simt::machine
