// SPDX-License-Identifier: BSD-3-Clause
// Launches: which threads run, in which order, and what is refused.
#include <stdlib.h>
#include <set>
#include <string>

#include "simt_test.h"

namespace {

struct Indices {
  uint3 thread, block;
  dim3 block_size, grid_size;
};

__global__ void record_indices(Indices* out) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
  out[block * threads + thread] = {threadIdx, blockIdx, blockDim, gridDim};
}

TEST_F(Simt, IndicesInThreeDimensions) {
  const dim3 grid(3, 4, 5), block(7, 2, 3);
  for (const Schedule& schedule : kSchedules) {
    use(schedule);
    std::vector<Indices> out(3 * 4 * 5 * 7 * 2 * 3);
    FUSED_CE_LAUNCH(record_indices, grid, block, 0, nullptr, out.data());
    ASSERT_EQ(simt::error(), "");
    size_t i = 0;
    for (unsigned bz = 0; bz < 5; ++bz)
      for (unsigned by = 0; by < 4; ++by)
        for (unsigned bx = 0; bx < 3; ++bx)
          for (unsigned tz = 0; tz < 3; ++tz)
            for (unsigned ty = 0; ty < 2; ++ty)
              for (unsigned tx = 0; tx < 7; ++tx) {
                const Indices& o = out[i++];
                ASSERT_TRUE(o.thread.x == tx && o.thread.y == ty && o.thread.z == tz);
                ASSERT_TRUE(o.block.x == bx && o.block.y == by && o.block.z == bz);
                ASSERT_TRUE(o.block_size.x == 7 && o.block_size.y == 2 && o.block_size.z == 3);
                ASSERT_TRUE(o.grid_size.x == 3 && o.grid_size.y == 4 && o.grid_size.z == 5);
              }
  }
}

__global__ void record_order(unsigned* out, unsigned* next) { out[(*next)++] = blockIdx.x; }

TEST_F(Simt, EveryBlockRunsOnceInAnyOrder) {
  std::set<std::vector<unsigned>> orders;
  for (const Schedule& schedule : kSchedules) {
    use(schedule);
    std::vector<unsigned> out(100);
    unsigned next = 0;
    FUSED_CE_LAUNCH(record_order, 100, 1, 0, nullptr, out.data(), &next);
    EXPECT_EQ(next, 100u);
    EXPECT_EQ(std::set<unsigned>(out.begin(), out.end()).size(), 100u);
    orders.insert(out);
  }
  EXPECT_EQ(orders.size(), 5u);  // poison does not change it
}

TEST_F(Simt, OnlySelectedBlocksRun) {
  for (const Schedule& schedule : kSchedules) {
    use(schedule);
    simt::only_blocks(2'000'000'000, 2'000'000'002);
    std::vector<unsigned> out(4);
    unsigned next = 0;
    FUSED_CE_LAUNCH(record_order, 2'147'483'647, 1, 0, nullptr, out.data(), &next);
    EXPECT_EQ(next, 3u);
    EXPECT_EQ(std::set<unsigned>(out.begin(), out.begin() + 3),
              (std::set<unsigned>{2'000'000'000, 2'000'000'001, 2'000'000'002}));
  }
}

__global__ void nothing() {}
__global__ void nothing_with_much_memory() {}

TEST_F(Simt, ImpossibleLaunchesFail) {
  const auto launch = [](dim3 grid, dim3 block, size_t shared_bytes) {
    FUSED_CE_LAUNCH(nothing, grid, block, shared_bytes, nullptr);
    return cudaGetLastError();
  };
  EXPECT_EQ(launch(1, 1024, 48 << 10), cudaSuccess);
  EXPECT_EQ(launch(1, dim3(4, 4, 64), 0), cudaSuccess);
  EXPECT_EQ(launch(dim3(1, 65535, 1), 1, 0), cudaSuccess);
  for (const dim3 block :
       {dim3(0), dim3(1025), dim3(1, 2, 65), dim3(32, 33), dim3(1, 0, 1), dim3(65536, 65536)})
    EXPECT_EQ(launch(1, block, 0), cudaErrorInvalidConfiguration);
  for (const dim3 grid : {dim3(0), dim3(1, 0), dim3(0x80000000), dim3(1, 65536), dim3(1, 1, 65536)})
    EXPECT_EQ(launch(grid, 1, 0), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch(1, 1, (48 << 10) + 1), cudaErrorInvalidConfiguration);
}

TEST_F(Simt, MuchDynamicSharedMemoryHasToBeAskedFor) {
  constexpr int kBytes = 100 << 10;
  constexpr auto kAttribute = cudaFuncAttributeMaxDynamicSharedMemorySize;
  const auto launch = [](size_t bytes) {
    FUSED_CE_LAUNCH(nothing_with_much_memory, 1, 1, bytes, nullptr);
    return cudaGetLastError();
  };
  EXPECT_EQ(launch(kBytes), cudaErrorInvalidConfiguration);
  EXPECT_EQ(cudaFuncSetAttribute(nothing_with_much_memory, kAttribute, kBytes), cudaSuccess);
  EXPECT_EQ(launch(kBytes), cudaSuccess);
  EXPECT_EQ(launch(kBytes + 1), cudaErrorInvalidConfiguration);
  EXPECT_EQ(cudaFuncSetAttribute(nothing_with_much_memory, kAttribute, 228 << 10),
            cudaErrorInvalidValue);
}

TEST_F(Simt, TheEnvironmentIsReadUnlessTold) {
  const auto order = [] {
    std::vector<unsigned> out(3);
    unsigned next = 0;
    FUSED_CE_LAUNCH(record_order, 3, 1, 0, nullptr, out.data(), &next);
    return out;
  };
  const char* const before = getenv("SIMT_ORDER");
  const std::string saved = before == nullptr ? "fifo" : before;
  setenv("SIMT_ORDER", "lifo", 1);
  EXPECT_EQ(order(), (std::vector<unsigned>{2, 1, 0}));
  simt::set_schedule(simt::Order::kFifo);
  EXPECT_EQ(order(), (std::vector<unsigned>{0, 1, 2}));
  simt::reset_schedule();
  setenv("SIMT_ORDER", "backwards", 1);
  EXPECT_EQ(order(), (std::vector<unsigned>{0, 0, 0}));
  EXPECT_CONTAINS(simt::error(), "SIMT_ORDER");
  setenv("SIMT_ORDER", saved.c_str(), 1);
}

}  // namespace
