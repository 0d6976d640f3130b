// SPDX-License-Identifier: BSD-3-Clause
// Wrong kernels are found out.
#include <functional>
#include <string>
#include <utility>

#include "simt_test.h"

namespace {

template <bool kBarrier>
__global__ void read_neighbour(int* out) {
  FUSED_CE_DYNAMIC_SHARED(int, shared);
  shared[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (kBarrier) __syncthreads();
  out[threadIdx.x] = threadIdx.x == 0 ? 0 : shared[threadIdx.x - 1] + 1;
}

template <bool kBarrier>
int right_answers() {
  int right = 0;
  for (const Schedule& schedule : kSchedules) {
    use(schedule);
    std::vector<int> out(64), expected(64);
    for (size_t i = 0; i < 64; ++i) expected[i] = static_cast<int>(i);
    FUSED_CE_LAUNCH(read_neighbour<kBarrier>, 1, 64, 64 * sizeof(int), nullptr, out.data());
    right += out == expected;
  }
  return right;
}

TEST_F(Simt, ADroppedBarrierShowsUnderSomeSchedule) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "races on purpose";
#endif
  EXPECT_EQ(right_answers<true>(), static_cast<int>(kSchedules.size()));
  const int right = right_answers<false>();
  EXPECT_GT(right, 0);  // fifo happens to hide it
  EXPECT_LT(right, static_cast<int>(kSchedules.size()));
}

__global__ void divergent_barrier() {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}
__global__ void barrier_against_shuffle(int* out) {
  if (threadIdx.x == 3) {
    __syncthreads();
  } else {
    *out = __shfl_xor_sync(kAll, 1, 1);
  }
}
__global__ void lane_not_in_own_mask() { __syncwarp(0x7FFFFFFF); }
__global__ void masks_differ() { __syncwarp(threadIdx.x < 16 ? kAll : 0xFFFF0001); }
__global__ void named_lane_exited() {
  if (threadIdx.x == 7) return;
  __syncwarp();
}
__global__ void named_lane_exits_later() {
  __syncthreads();
  if (threadIdx.x == 63) return;
  __ballot_sync(kAll, 1);
}
__global__ void reads_lane_outside_mask(int* out) {
  if (threadIdx.x < 16) *out = __shfl_sync(0xFFFF, 1, 20);
}
__global__ void places_differ(int* out) {
  if (threadIdx.x % 2) {
    *out = __shfl_xor_sync(kAll, 1, 1);
  } else {
    *out = __shfl_xor_sync(kAll, 1, 1);
  }
}
__global__ void asserts(int limit) {
  assert(static_cast<int>(threadIdx.x) < limit);
  __syncthreads();
}
__global__ void count_threads(int* count) { ++*count; }
__global__ void copies_with_hints(const float4* in, float4* out) {
  __stcs(out, in == out ? __ldcs(in) : __ldg(in));
}
__global__ void copies_words(const float4* in, float4* out) {
  fused_ce::cuda::store_word(out, fused_ce::cuda::load_word(in));
}

// The error of what `launch` launched, forgotten again.
std::string error_of(const std::function<void()>& launch) {
  launch();
  const std::string error = simt::error();
  simt::clear_error();
  return error;
}

TEST_F(Simt, WrongKernelsFail) {
  int out = 0;
  for (const Schedule& schedule : kSchedules) {
    use(schedule);
    const auto launch = [&](auto kernel, int threads, auto... arguments) {
      return error_of([&] { FUSED_CE_LAUNCH(kernel, 1, threads, 0, nullptr, arguments...); });
    };
    EXPECT_CONTAINS(launch(divergent_barrier, 64), "divergent __syncthreads");
    EXPECT_CONTAINS(launch(barrier_against_shuffle, 32, &out), "deadlock: 32 of 32 threads");
    EXPECT_CONTAINS(launch(lane_not_in_own_mask, 32), "lane 31 of warp 0 is not in its own mask");
    EXPECT_CONTAINS(launch(masks_differ, 32), "diverged");
    EXPECT_CONTAINS(launch(named_lane_exited, 32), "lane 7 of warp 0 has exited");
    EXPECT_CONTAINS(launch(named_lane_exits_later, 64), "lane 31 of warp 1 has exited");
    EXPECT_CONTAINS(launch(lane_not_in_own_mask, 16), "never was");
    EXPECT_CONTAINS(launch(reads_lane_outside_mask, 32, &out), "reads lane 20, which is not in");
    EXPECT_CONTAINS(launch(places_differ, 32, &out), "diverged");
    EXPECT_EQ(launch(asserts, 32, 32), "");  // and the machine still works
  }
}

TEST_F(Simt, AFailedAssertionEndsTheLaunch) {
  for (const Schedule& schedule : kSchedules) {
    use(schedule);
    FUSED_CE_LAUNCH(asserts, 5, dim3(8, 2), 0, nullptr, 7);
    EXPECT_CONTAINS(simt::error(), "asserts: block (");
    EXPECT_CONTAINS(simt::error(), "thread (7, ");
    EXPECT_CONTAINS(simt::error(), "static_cast<int>(threadIdx.x) < limit");
    EXPECT_CONTAINS(simt::error(), "wrong_kernels_test.cpp:");

    // Nothing runs until somebody has asked.
    int count = 0;
    FUSED_CE_LAUNCH(count_threads, 1, 1, 0, nullptr, &count);
    EXPECT_EQ(count, 0);
    EXPECT_EQ(cudaPeekAtLastError(), cudaErrorAssert);
    EXPECT_STREQ(cudaGetErrorString(cudaGetLastError()), "device-side assert triggered");
    EXPECT_EQ(cudaGetLastError(), cudaSuccess);
    FUSED_CE_LAUNCH(count_threads, 1, 1, 0, nullptr, &count);
    EXPECT_EQ(count, 1);
  }
}

TEST_F(Simt, MisalignedVectorsFail) {
  alignas(16) float in[8] = {}, out[8] = {};
  const auto at = [](float* p) { return reinterpret_cast<float4*>(p); };
  for (const auto kernel : {copies_with_hints, copies_words}) {
    for (const auto& [from, to] : {std::pair{in + 1, out}, {in, out + 1}, {in + 2, in + 2}}) {
      FUSED_CE_LAUNCH(kernel, 1, 1, 0, nullptr, at(from), at(to));
      EXPECT_CONTAINS(simt::error(), "not aligned to 16 bytes");
      EXPECT_EQ(cudaGetLastError(), cudaErrorMisalignedAddress);
    }
    FUSED_CE_LAUNCH(kernel, 1, 1, 0, nullptr, at(in + 4), at(out + 4));
    EXPECT_EQ(simt::error(), "");
  }
}

}  // namespace
