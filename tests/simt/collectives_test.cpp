// SPDX-License-Identifier: BSD-3-Clause
// What warps and blocks do together gives the same, right answer under every schedule.
#include "simt_test.h"

namespace {

constexpr int kOutputs = 12;

__global__ void warp_intrinsics(int64_t* out) {
  const int t = static_cast<int>(threadIdx.x), lane = t % warpSize;
  int64_t* o = out + t * kOutputs;
  o[0] = __shfl_sync(kAll, t, 5);
  o[1] = __shfl_sync(kAll, t, lane + 3, 8);
  o[2] = __shfl_xor_sync(kAll, t, 17);
  o[3] = __shfl_xor_sync(kAll, t, 8, 8);
  o[4] = __shfl_down_sync(kAll, t, 3);
  o[5] = __shfl_down_sync(kAll, t, 3u, 8);
  o[6] = __shfl_up_sync(kAll, t, 3);
  o[7] = __shfl_up_sync(kAll, t, 3u, 8);
  o[8] = __ballot_sync(kAll, lane % 3 == 0);
  o[9] = __any_sync(kAll, lane == 31) * 2 + __any_sync(kAll, 0);
  o[10] = __all_sync(kAll, lane < 32) * 2 + __all_sync(kAll, lane != 9);
  // Half warps that meet on their own, one of them more often, then with each other.
  const unsigned half = lane < 16 ? 0xFFFF : 0xFFFF0000;
  int64_t sum = 0;
  for (int i = 0; i <= lane / 16; ++i) sum += __popc(__ballot_sync(half, lane % 2));
  __syncwarp(half);
  __syncwarp();
  o[11] = __shfl_xor_sync(kAll, sum, 16);
}

TEST_F(Simt, WarpIntrinsics) {
  for (const Schedule& schedule : kSchedules) {
    use(schedule);
    std::vector<int64_t> out(96 * kOutputs);
    FUSED_CE_LAUNCH(warp_intrinsics, 1, 96, 0, nullptr, out.data());
    ASSERT_EQ(simt::error(), "");
    for (int t = 0; t < 96; ++t) {
      const int lane = t % 32, warp = t - lane, segment = t / 8 * 8, in_segment = t % 8;
      const int64_t* o = &out[static_cast<size_t>(t) * kOutputs];
      ASSERT_EQ(o[0], warp + 5);
      ASSERT_EQ(o[1], segment + (lane + 3) % 8);
      ASSERT_EQ(o[2], warp + (lane ^ 17));
      ASSERT_EQ(o[3], segment / 8 % 2 ? t - 8 : t);  // an earlier segment may be read
      ASSERT_EQ(o[4], lane + 3 < 32 ? t + 3 : t);
      ASSERT_EQ(o[5], in_segment + 3 < 8 ? t + 3 : t);
      ASSERT_EQ(o[6], lane >= 3 ? t - 3 : t);
      ASSERT_EQ(o[7], in_segment >= 3 ? t - 3 : t);
      ASSERT_EQ(o[8], 0x49249249);
      ASSERT_EQ(o[9], 2);
      ASSERT_EQ(o[10], 2);
      ASSERT_EQ(o[11], lane < 16 ? 16 : 8);
    }
  }
}

template <class T>
__global__ void block_sum(const T* values, int count, T* out) {
  __shared__ T sums[32];
  T sum = 0;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x))
    sum += values[i];
  for (int lanes = warpSize / 2; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(kAll, sum, lanes);
  if (threadIdx.x % warpSize == 0) sums[threadIdx.x / warpSize] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (unsigned warp = 1; warp < blockDim.x / warpSize; ++warp) sum += sums[warp];
    *out = sum;
  }
}

template <class T>
void expect_block_sums() {
  for (const Schedule& schedule : kSchedules) {
    use(schedule);
    for (const int size : {32, 256, 1024}) {
      std::vector<T> values(3000);
      for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<T>(i % 100);
      T sum = 0;
      FUSED_CE_LAUNCH(block_sum<T>, 1, size, 0, nullptr, values.data(), 3000, &sum);
      ASSERT_EQ(simt::error(), "");
      ASSERT_EQ(sum, static_cast<T>(30 * 4950));
    }
  }
}

TEST_F(Simt, ShufflesOfEveryType) {
  expect_block_sums<float>();
  expect_block_sums<double>();
  expect_block_sums<int>();
  expect_block_sums<unsigned>();
  expect_block_sums<long long>();
  expect_block_sums<unsigned long long>();
}

__global__ void counting_barriers(int* out) {
  const int t = static_cast<int>(threadIdx.x);
  if (t >= 40) return;  // barriers are among those that stay
  const int counted = __syncthreads_count(t % 4 == 0);
  const int some = __syncthreads_or(t == 39), none = __syncthreads_or(0);
  const int all = __syncthreads_and(t < 40), most = __syncthreads_and(t != 3);
  out[t] = counted * 10000 + some * 1000 + none * 100 + all * 10 + most;
}

TEST_F(Simt, CountingBarriers) {
  for (const Schedule& schedule : kSchedules) {
    use(schedule);
    std::vector<int> out(40);
    FUSED_CE_LAUNCH(counting_barriers, 1, 50, 0, nullptr, out.data());
    ASSERT_EQ(simt::error(), "");
    EXPECT_EQ(out, std::vector<int>(40, 101010));
  }
}

TEST_F(Simt, LaunchesAreRecorded) {
  float value = 1, sum;
  FUSED_CE_LAUNCH(block_sum<float>, dim3(2, 3), 64, 100, nullptr, &value, 1, &sum);
  const std::vector<simt::Launch> launches = simt::launches();
  ASSERT_EQ(launches.size(), 1u);
  EXPECT_EQ(launches[0].kernel, "block_sum<float>");
  EXPECT_EQ(launches[0].grid.y, 3u);
  EXPECT_EQ(launches[0].block.x, 64u);
  EXPECT_EQ(launches[0].shared_bytes, 100u);
  EXPECT_EQ(launches[0].blocks, 6u);
  EXPECT_EQ(launches[0].barriers, 6u);
  EXPECT_EQ(launches[0].collectives, 6u * 2 * 5);
  EXPECT_GT(launches[0].switches, 6u * 64);
}

}  // namespace
