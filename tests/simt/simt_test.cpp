// The shim itself: that right kernels give the same, right answer under every schedule, and that
// wrong ones are found out.
#include <gtest/gtest.h>
#include <math.h>
#include <stdlib.h>

#include <functional>
#include <limits>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "simt.h"

namespace {

constexpr unsigned kAll = ~0u;

class Simt : public testing::Test {
 protected:
  void SetUp() override { reset(); }
  void TearDown() override { reset(); }

  static void reset() {
    simt::reset_schedule();
    simt::only_blocks();
    simt::clear_error();
    simt::clear_launches();
  }

  // The error of what `launch` launched, forgotten again.
  static std::string error_of(const std::function<void()>& launch) {
    launch();
    const std::string error = simt::error();
    simt::clear_error();
    return error;
  }
};

struct Schedule {
  simt::Order order;
  uint64_t seed;
  uint8_t poison;
};
const std::vector<Schedule> kSchedules = {
    {simt::Order::kFifo, 0, 0xFF},   {simt::Order::kFifo, 0, 0x7F},
    {simt::Order::kLifo, 0, 0xFF},   {simt::Order::kLifo, 0, 0x7F},
    {simt::Order::kRandom, 1, 0xFF}, {simt::Order::kRandom, 2, 0x7F},
    {simt::Order::kRandom, 3, 0xFF},
};

void use(const Schedule& schedule) {
  simt::set_schedule(schedule.order, schedule.seed);
  simt::set_poison(schedule.poison);
}

#define EXPECT_CONTAINS(text, part) EXPECT_PRED_FORMAT2(testing::IsSubstring, part, text)

// ---- Indices, parameters, memory ---------------------------------------------------------------

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

// ---- Values of collectives ---------------------------------------------------------------------

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

// ---- Wrong kernels -----------------------------------------------------------------------------

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
__global__ void copies_with_hints(const float4* in, float4* out) {
  __stcs(out, in == out ? __ldcs(in) : __ldg(in));
}
__global__ void copies_words(const float4* in, float4* out) {
  fused_ce::cuda::store_word(out, fused_ce::cuda::load_word(in));
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
    EXPECT_CONTAINS(simt::error(), "simt_test.cpp:");

    // Nothing runs until somebody has asked.
    unsigned next = 0;
    std::vector<unsigned> out(1);
    FUSED_CE_LAUNCH(record_order, 1, 1, 0, nullptr, out.data(), &next);
    EXPECT_EQ(next, 0u);
    EXPECT_EQ(cudaPeekAtLastError(), cudaErrorAssert);
    EXPECT_STREQ(cudaGetErrorString(cudaGetLastError()), "device-side assert triggered");
    EXPECT_EQ(cudaGetLastError(), cudaSuccess);
    FUSED_CE_LAUNCH(record_order, 1, 1, 0, nullptr, out.data(), &next);
    EXPECT_EQ(next, 1u);
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

__global__ void halve_through_vectors(float* values, float* out) {
  values[0] = 8;
  uint4* const words = reinterpret_cast<uint4*>(values);
  uint4 word = *words;
  word.x = __float_as_uint(__uint_as_float(word.x) / 2);
  *words = word;
  *out = values[0];
}

TEST_F(Simt, VectorsMayAliasAnything) {
  alignas(16) float values[4] = {};
  float out;
  FUSED_CE_LAUNCH(halve_through_vectors, 1, 1, 0, nullptr, values, &out);
  EXPECT_EQ(out, 4);
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

// ---- Types and functions -----------------------------------------------------------------------

static_assert(sizeof(uint4) == 16 && alignof(uint4) == 16);
static_assert(sizeof(float4) == 16 && alignof(float4) == 16);
static_assert(sizeof(double2) == 16 && alignof(double2) == 16);
static_assert(sizeof(ulonglong2) == 16 && alignof(ulonglong2) == 16);
static_assert(sizeof(uint2) == 8 && alignof(uint2) == 8 && alignof(float2) == 8);
static_assert(sizeof(uint3) == 12 && sizeof(dim3) == 12);
static_assert(sizeof(__half) == 2 && sizeof(__nv_bfloat16) == 2);

// The value of a half type from its definition: so many bits of exponent, the rest of fraction.
float decode(unsigned bits, int exponent_bits) {
  const int fraction_bits = 15 - exponent_bits, bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = static_cast<int>(bits >> fraction_bits & ((1u << exponent_bits) - 1));
  const auto fraction = static_cast<float>(bits & ((1u << fraction_bits) - 1));
  const float sign = bits >> 15 ? -1.0f : 1.0f;
  if (exponent == (1 << exponent_bits) - 1) return fraction != 0 ? NAN : sign * INFINITY;
  const float one = exponent == 0 ? 0.0f : ldexpf(1.0f, fraction_bits);
  return sign * ldexpf(one + fraction, (exponent == 0 ? 1 : exponent) - bias - fraction_bits);
}

// Every value, every midpoint between neighbours, and the floats on either side of it.
template <class Decode, class Encode>
void expect_conversions(int exponent_bits, Decode to_float, Encode from_float) {
  const unsigned infinity = ((1u << exponent_bits) - 1) << (15 - exponent_bits);
  for (unsigned bits = 0; bits < 65536; ++bits) {
    const float value = to_float(static_cast<unsigned short>(bits));
    const unsigned magnitude = bits & 0x7FFF, sign = bits & 0x8000;
    if (magnitude > infinity) {
      ASSERT_TRUE(isnan(value)) << bits;
      ASSERT_EQ(from_float(value), 0x7FFF);
      continue;
    }
    ASSERT_EQ(__float_as_uint(value), __float_as_uint(decode(bits, exponent_bits))) << bits;
    ASSERT_EQ(from_float(value), bits);
    if (magnitude == infinity) continue;
    // Past the largest finite value lies what would be the next one, which rounds to infinity.
    const double next = magnitude + 1 == infinity
                            ? ldexp(sign ? -1.0 : 1.0, 1 << (exponent_bits - 1))
                            : decode(bits + 1, exponent_bits);
    const auto middle = static_cast<float>((double{value} + next) / 2);
    ASSERT_EQ(from_float(middle), bits + (bits & 1)) << bits;
    ASSERT_EQ(from_float(nextafterf(middle, 0)), bits) << bits;
    ASSERT_EQ(from_float(nextafterf(middle, sign ? -INFINITY : INFINITY)), bits + 1) << bits;
  }
}

TEST_F(Simt, Bfloat16) {
  expect_conversions(
      8, [](unsigned short bits) { return __bfloat162float(__ushort_as_bfloat16(bits)); },
      [](float x) { return __bfloat16_as_ushort(__float2bfloat16_rn(x)); });
}

TEST_F(Simt, Half) {
  expect_conversions(
      5, [](unsigned short bits) { return __half2float(__ushort_as_half(bits)); },
      [](float x) { return __half_as_ushort(__float2half_rn(x)); });
}

TEST_F(Simt, Functions) {
  EXPECT_EQ(__umulhi(0xFFFFFFFF, 0x10), 0xFu);
  EXPECT_EQ(__popc(0xF0F0), 8);
  EXPECT_EQ(__clz(0), 32);
  EXPECT_EQ(__clz(-1), 0);
  EXPECT_EQ(__ffs(0), 0);
  EXPECT_EQ(__ffs(8), 4);
  EXPECT_EQ(__int_as_float(0x3F800000), 1.0f);
  EXPECT_EQ(__float_as_int(-0.0f), std::numeric_limits<int>::min());
  EXPECT_EQ(__longlong_as_double(__double_as_longlong(2.5)), 2.5);
  EXPECT_EQ(min(2, 3), 2);
  EXPECT_EQ(max(2.0f, NAN), 2.0f);
  EXPECT_EQ(__fmaf_rn(2, 3, 4), 10.0f);

  using fused_ce::cuda::fast_exp2;
  EXPECT_EQ(fast_exp2(3.0f), 8.0f);
  EXPECT_EQ(fast_exp2(-126.0f), 0x1p-126f);
  EXPECT_EQ(fast_exp2(-127.0f), 0.0f);
  EXPECT_EQ(fast_exp2(-INFINITY), 0.0f);
  EXPECT_EQ(fast_exp2(INFINITY), INFINITY);
  EXPECT_TRUE(isnan(fast_exp2(NAN)));
}

}  // namespace
