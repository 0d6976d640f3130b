// SPDX-License-Identifier: BSD-3-Clause
#include "grid.h"

#include <map>
#include <mutex>
#include <tuple>

#include "platform.cuh"

namespace fused_ce::cuda {
namespace {

int current_device() {
  int device = 0;
  cudaGetDevice(&device);
  return device;
}

// Asked once and remembered: the driver finds it in a microsecond or so.
int blocks_of_multiprocessor(int device, const void* kernel, int threads, size_t shared_bytes) {
  static std::mutex mutex;
  static std::map<std::tuple<int, const void*, size_t>, int> known;
  const std::lock_guard lock(mutex);
  int& blocks = known[{device, kernel, shared_bytes}];
  if (blocks == 0) {
    cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, shared_bytes);
  }
  return blocks;
}

}  // namespace

int64_t blocks_at_once(const void* kernel, int threads, size_t shared_bytes) {
  const int device = current_device();
  int multiprocessors = 0;
  cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  const int64_t blocks =
      int64_t{multiprocessors} * blocks_of_multiprocessor(device, kernel, threads, shared_bytes);
  return blocks > 0 ? blocks : 1;
}

}  // namespace fused_ce::cuda
