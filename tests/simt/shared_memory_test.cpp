// SPDX-License-Identifier: BSD-3-Clause
// Shared memory: the same to all threads of a block, and poisoned before each.
#include <thread>

#include "simt_test.h"

namespace {

template <class T, int kThreads>
__global__ void __launch_bounds__(kThreads) reverse(T* values, int64_t stride, const T offset) {
  __shared__ T shared[kThreads];
  T* mine = values + blockIdx.x * stride;
  shared[threadIdx.x] = mine[threadIdx.x];
  __syncthreads();
  mine[threadIdx.x] = shared[kThreads - 1 - threadIdx.x] + offset;
}

template <class T>
__global__ void reverse_dynamic(T* values) {
  FUSED_CE_DYNAMIC_SHARED(T, shared);
  shared[threadIdx.x] = values[threadIdx.x];
  __syncthreads();
  values[threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}

TEST_F(Simt, SharedMemory) {
  for (const Schedule& schedule : kSchedules) {
    use(schedule);
    std::vector<double> values(3 * 64);
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(i);
    FUSED_CE_LAUNCH((reverse<double, 64>), 3, 64, 0, nullptr, values.data(), 64, 1);
    for (size_t i = 0; i < values.size(); ++i)
      ASSERT_EQ(values[i], static_cast<double>(i / 64 * 64 + 63 - i % 64) + 1);

    std::vector<float> floats(96);
    for (size_t i = 0; i < floats.size(); ++i) floats[i] = static_cast<float>(i);
    FUSED_CE_LAUNCH(reverse_dynamic<float>, 1, 96, 96 * sizeof(float), nullptr, floats.data());
    for (size_t i = 0; i < floats.size(); ++i) ASSERT_EQ(floats[i], static_cast<float>(95 - i));
    ASSERT_EQ(simt::error(), "");
  }
}

__global__ void read_uninitialised(unsigned* fixed, unsigned* dynamic) {
  __shared__ unsigned in_block[5];
  FUSED_CE_DYNAMIC_SHARED(unsigned, bytes);
  *fixed = in_block[3];
  *dynamic = bytes[3];
  in_block[3] = bytes[3] = 7;  // must not be seen by the next block
}

TEST_F(Simt, SharedMemoryIsPoisoned) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "static shared memory has red zones instead";
#endif
  for (const unsigned poison : {0xFFu, 0x7Fu}) {
    simt::set_poison(static_cast<uint8_t>(poison));
    for (int launch = 0; launch < 2; ++launch) {
      unsigned fixed = 0, dynamic = 0;
      FUSED_CE_LAUNCH(read_uninitialised, 3, 1, 16, nullptr, &fixed, &dynamic);
      EXPECT_EQ(fixed, poison * 0x01010101u);
      EXPECT_EQ(dynamic, poison * 0x01010101u);
    }
  }
}

thread_local int host_variable = 5;

TEST_F(Simt, ThreadLocalVariablesOfTheCallerAreLeftAlone) {
  unsigned fixed, dynamic;
  FUSED_CE_LAUNCH(read_uninitialised, 1, 1, 16, nullptr, &fixed, &dynamic);
  EXPECT_EQ(host_variable, 5);
}

TEST_F(Simt, LaunchesFromManyThreads) {
  std::vector<std::thread> callers;
  std::vector<std::vector<double>> values(4, std::vector<double>(64, 1.0));
  for (auto& mine : values) {
    callers.emplace_back([&mine] {
      for (int i = 0; i < 50; ++i)
        FUSED_CE_LAUNCH((reverse<double, 64>), 1, 64, 0, nullptr, mine.data(), 64, 1);
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(simt::error(), "");
  for (const auto& mine : values) EXPECT_EQ(mine, std::vector<double>(64, 51.0));
}

}  // namespace
