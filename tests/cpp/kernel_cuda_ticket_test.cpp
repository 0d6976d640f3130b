// SPDX-License-Identifier: BSD-3-Clause
// The ticket by which the last block of a grid is known, alone: whatever its word holds before.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/cuda/ticket.cuh"

namespace fused_ce::cuda {
namespace {

constexpr int kThreads = 64;

struct Counts {
  int blocks = 0, early = 0, lasts = 0;
  int64_t sum = 0;
};

// A thread of each block writes the block's number plus one; the last block adds them up.
__global__ void count_last(const Ticket ticket, int* numbers, Counts* counts) {
  if (threadIdx.x == kThreads - 1) {
    numbers[blockIdx.x] = static_cast<int>(blockIdx.x) + 1;
    // A block must not have arrived before all of its threads have written.
    const bool ours = *ticket.word >> Ticket::kArrivalBits == ticket.number >> Ticket::kArrivalBits;
    const Ticket::Word arrived = ours ? *ticket.word - ticket.number : 0;
    counts->early += arrived > static_cast<Ticket::Word>(counts->blocks);
    ++counts->blocks;
  }
  if (!ticket.is_last_block() || threadIdx.x != 0) return;
  ++counts->lasts;
  for (unsigned i = 0; i < gridDim.x; ++i) counts->sum += numbers[i];
}

constexpr Ticket::Word kNumber = Ticket::Word{0x123456789ABC} << Ticket::kArrivalBits;

class CudaTicket : public ::testing::Test {
 protected:
  void TearDown() override {
    simt::reset_schedule();
    simt::clear_error();
  }
  static void use_each_schedule(void (*f)()) {
    for (simt::Order order : {simt::Order::kFifo, simt::Order::kLifo, simt::Order::kRandom}) {
      simt::set_schedule(order, 3);
      f();
    }
  }
  // A call of so many blocks, with this in the ticket's word. Returns what it holds afterwards.
  static Ticket::Word call(unsigned blocks, Ticket::Word number, Ticket::Word before) {
    Ticket::Word word = before;
    std::vector<int> numbers(blocks, -1);
    Counts counts;
    FUSED_CE_LAUNCH(count_last, dim3(blocks), dim3(kThreads), 0, nullptr, Ticket{&word, number},
                    numbers.data(), &counts);
    EXPECT_EQ(simt::error(), "");
    EXPECT_EQ(counts.lasts, 1) << blocks << " blocks, " << std::hex << before;
    EXPECT_EQ(counts.sum, int64_t{blocks} * (blocks + 1) / 2);
    EXPECT_EQ(counts.early, 0);
    return word;
  }
};

TEST_F(CudaTicket, OneBlockIsTheLastWhateverTheWordHeld) {
  use_each_schedule([] {
    for (unsigned blocks : {1u, 2u, 3u, 50u}) {
      const Ticket::Word kOne = Ticket::Word{1} << Ticket::kArrivalBits;
      for (Ticket::Word before :
           {Ticket::Word{0}, ~Ticket::Word{0}, Ticket::Word{1}, Ticket::Word{blocks - 1},
            Ticket::Word{0xFFFF}, kNumber - 1, kNumber - kOne + blocks - 1, kNumber + kOne,
            kNumber + kOne + blocks - 1}) {
        call(blocks, kNumber, before);
      }
    }
  });
}

// A CUDA graph repeats a call: its number is in the word already, or the word is as the last call
// left it.
TEST_F(CudaTicket, ACallThatIsRepeated) {
  use_each_schedule([] {
    for (unsigned blocks : {1u, 2u, 50u}) {
      EXPECT_EQ(call(blocks, kNumber, kNumber), 0u);
      EXPECT_EQ(call(blocks, kNumber, 0), 0u);
    }
  });
}

// As many blocks as there may be tiles, and the smallest and the largest number.
TEST_F(CudaTicket, ManyBlocks) {
  for (Ticket::Word number : {Ticket::Word{0}, ~Ticket::Word{0xFFFF}})
    EXPECT_EQ(call(16384, number, 0xABABABABABABABAB), 0u);
}

}  // namespace
}  // namespace fused_ce::cuda
