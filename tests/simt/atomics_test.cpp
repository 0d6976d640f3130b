// SPDX-License-Identifier: BSD-3-Clause
// Atomics, and the device that a launcher asks about.
#include <algorithm>
#include <iterator>

#include "simt_test.h"

namespace {

using Word = unsigned long long;

__global__ void count(Word* counter, Word* seen) {
  seen[blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(counter, Word{3});
}

TEST_F(Simt, AtomicAddGivesWhatWasThereBefore) {
  for (const Schedule& schedule : kSchedules) {
    use(schedule);
    Word counter = 5;
    std::vector<Word> seen(7 * 64), expected(seen.size());
    for (size_t i = 0; i < expected.size(); ++i) expected[i] = 5 + 3 * i;
    FUSED_CE_LAUNCH(count, 7, 64, 0, nullptr, &counter, seen.data());
    std::sort(seen.begin(), seen.end());
    EXPECT_EQ(seen, expected);
    EXPECT_EQ(counter, 5 + 3 * expected.size());
  }
}

// Of those that all expect the same, one is served; it alone gets back what it expected.
__global__ void claim(Word* word, Word* found) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  found[i] = atomicCAS(word, Word{9}, Word{100} + i);
}

TEST_F(Simt, AtomicCASServesOne) {
  for (const Schedule& schedule : kSchedules) {
    use(schedule);
    Word word = 9;
    std::vector<Word> found(3 * 64);
    FUSED_CE_LAUNCH(claim, 3, 64, 0, nullptr, &word, found.data());
    EXPECT_EQ(std::count(found.begin(), found.end(), Word{9}), 1);
    EXPECT_EQ(found[word - 100], 9u);
    EXPECT_EQ(std::count(found.begin(), found.end(), word), std::ssize(found) - 1);
  }
}

TEST_F(Simt, AsManyMultiprocessorsAsATestSays) {
  const auto multiprocessors = [] {
    int count = 0, device = -1, blocks = 0;
    EXPECT_EQ(cudaGetDevice(&device), cudaSuccess);
    EXPECT_EQ(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), cudaSuccess);
    EXPECT_EQ(cudaOccupancyMaxActiveBlocksPerMultiprocessor(
                  &blocks, reinterpret_cast<const void*>(claim), 64, 0),
              cudaSuccess);
    EXPECT_EQ(blocks, 1);
    return count;
  };
  EXPECT_EQ(multiprocessors(), simt::kMultiprocessors);
  simt::set_multiprocessors(17);
  EXPECT_EQ(multiprocessors(), 17);
}

}  // namespace
