// SPDX-License-Identifier: BSD-3-Clause
// Kernels that are wrong on purpose, one for each thing that a sanitizer has to see, and right ones
// that it must not complain about. sanitizer_test.cmake builds this, and runs it with their names.
#include <stdio.h>
#include <string.h>

#include <memory>

#include "simt.h"

constexpr int kThreads = 64;
constexpr unsigned kAll = ~0u;

// Each thread reads what a thread of the same warp, and one of the other warp, have written. Twice,
// so that the second round's writes follow the first one's reads.
template <bool kBetweenWarps, bool kWithinWarp, bool kBeforeRewrite>
__global__ void exchange(int* out) {
  __shared__ int in_block[kThreads];
  FUSED_CE_DYNAMIC_SHARED(int, in_warp);
  const int t = static_cast<int>(threadIdx.x);
  for (int round = 0; round < 2; ++round) {
    in_warp[t] = t;
    if (kWithinWarp) __syncwarp();
    const int neighbour = in_warp[t ^ 1];
    in_block[t] = t;
    if (kBetweenWarps) __syncthreads();
    out[t] = in_block[kThreads - 1 - t] + neighbour;
    if (kBeforeRewrite) __syncthreads();
  }
}

// Shuffles and votes bring lanes together, and yet order no memory.
__global__ void shuffle_for_barrier(int* out) {
  __shared__ int shared[kThreads];
  const int t = static_cast<int>(threadIdx.x);
  shared[t] = t;
  out[t] = __shfl_xor_sync(kAll, t, 1) + static_cast<int>(__ballot_sync(kAll, 1));
  out[t] += shared[t ^ 1];
}

__global__ void read_global(const float* in, int index, float* out) { *out = in[index]; }

__global__ void read_static_shared(int index, float* out) {
  __shared__ float shared[kThreads];
  shared[threadIdx.x] = 1;
  __syncthreads();
  *out = shared[static_cast<int>(threadIdx.x) + index];
}

__global__ void read_dynamic_shared(int index, float* out) {
  FUSED_CE_DYNAMIC_SHARED(float, shared);
  shared[threadIdx.x] = 1;
  __syncthreads();
  *out = shared[static_cast<int>(threadIdx.x) + index];
}

__global__ void read_vector(const float* in, float* out) {
  *out = reinterpret_cast<const float4*>(in)->x;
}

int main(int argc, char** argv) {
  const char* const what = argc > 1 ? argv[1] : "";
  const auto is = [&](const char* name) { return strcmp(what, name) == 0; };
  const auto ints = std::make_unique<int[]>(kThreads);
  const auto floats = std::make_unique<float[]>(kThreads);
  const auto exchanging = [&](auto kernel) {
    FUSED_CE_LAUNCH(kernel, 3, kThreads, kThreads * sizeof(int), nullptr, ints.get());
  };
  float out = 0;

  if (is("race_free")) {
    exchanging(exchange<true, true, true>);
  } else if (is("race_between_warps")) {
    exchanging(exchange<false, true, true>);
  } else if (is("race_within_warp")) {
    exchanging(exchange<true, false, true>);
  } else if (is("race_of_rewrite")) {
    exchanging(exchange<true, true, false>);
  } else if (is("race_despite_shuffle")) {
    FUSED_CE_LAUNCH(shuffle_for_barrier, 1, kThreads, 0, nullptr, ints.get());
  } else if (is("in_bounds")) {
    FUSED_CE_LAUNCH(read_global, 2, 1, 0, nullptr, floats.get(), kThreads - 1, &out);
    FUSED_CE_LAUNCH(read_static_shared, 2, kThreads, 0, nullptr, 0, &out);
    FUSED_CE_LAUNCH(read_dynamic_shared, 2, kThreads, kThreads * 4, nullptr, 0, &out);
  } else if (is("global")) {
    FUSED_CE_LAUNCH(read_global, 1, 1, 0, nullptr, floats.get(), kThreads, &out);
  } else if (is("static_shared")) {
    FUSED_CE_LAUNCH(read_static_shared, 1, kThreads, 0, nullptr, 1, &out);
  } else if (is("dynamic_shared")) {
    FUSED_CE_LAUNCH(read_dynamic_shared, 1, kThreads, kThreads * 4, nullptr, 1, &out);
  } else if (is("misaligned")) {
    FUSED_CE_LAUNCH(read_vector, 1, 1, 0, nullptr, floats.get() + 1, &out);
  } else {
    fprintf(stderr, "no such toy: %s\n", what);
    return 2;
  }
  if (simt::error().empty()) return 0;
  fprintf(stderr, "%s\n", simt::error().c_str());
  return 2;
}
