// SPDX-License-Identifier: BSD-3-Clause
// The machine that kernels run on: what a test asks of it, and what the intrinsics of simt.h are
// built from.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <source_location>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "types.h"

struct CUstream_st;

namespace simt {

// ---- For tests -------------------------------------------------------------------------------

// Which of the threads that can run goes next, and which block: from the first to the last, from
// the last to the first, or drawn by lot. A thread runs until it has to wait, so each order is one
// reproducible schedule. Unless set here, SIMT_ORDER in the environment says: fifo, lifo or rand:7.
enum class Order { kFifo, kLifo, kRandom };
void set_schedule(Order order, uint64_t seed = 0);

// What shared memory is filled with before each block. 0xFF makes NaNs and -1, 0x7F huge finite
// numbers; either alone leaves some uses of uninitialised memory unseen. Unless set here,
// SIMT_POISON in the environment says; 0xFF without it.
void set_poison(uint8_t byte);

// Back to what the environment says.
void reset_schedule();

// Blocks outside of [first, last], numbered x fastest, do not run: huge grids by sample.
void only_blocks(uint64_t first = 0, uint64_t last = UINT64_MAX);

// How many multiprocessors the device has, each with room for one block; 3 unless set here. What
// runs does not depend on it: it is what a launcher is told that asks.
constexpr int kMultiprocessors = 3;
void set_multiprocessors(int count = kMultiprocessors);

// Why the first launch since clear_error() failed; empty where none did. Until it is cleared, later
// launches do nothing: what they would read is not there.
std::string error();
void clear_error();

struct Launch {
  std::string kernel;  // as the source names it
  dim3 grid, block;
  size_t shared_bytes;   // dynamic
  uint64_t blocks;       // run
  uint64_t switches;     // from thread to thread
  uint64_t barriers;     // __syncthreads that a block passed
  uint64_t collectives;  // warp intrinsics that a group of lanes passed
};

// The launches since clear_launches(), impossible ones excluded; at most the latest 1024.
std::vector<Launch> launches();
void clear_launches();

// ---- For simt.h ------------------------------------------------------------------------------

constexpr int kWarpSize = 32;

struct Thread {
  uint3 index;
  int lane;
};
struct Block {
  uint3 index;
  dim3 size, grid;
  unsigned char* dynamic_shared;
};
extern Thread* thread;  // the one that runs
extern Block block;     // the one that runs

// Where an intrinsic was called: threads that meet must have called it at the same place.
using Where = std::source_location;

struct Votes {
  int set, all;
};
// __syncthreads, which counts the threads whose predicate is set
Votes barrier(bool predicate, Where where);
// __syncwarp: the only warp intrinsic that orders memory
void sync_warp(unsigned mask, Where where);
// Each lane in `mask` posts `value` and gets the one that lane `source` posted.
uint64_t shuffle(unsigned mask, uint64_t value, int source, Where where);
unsigned ballot(unsigned mask, bool predicate, Where where);

// They end the launch. Outside of a kernel, the process.
[[noreturn]] void assertion_failed(const char* condition, Where where);
[[noreturn]] void misaligned(const void* address, size_t alignment, Where where);

struct Configuration {
  const char* kernel_name;
  const void* kernel;
  dim3 grid, block;
  size_t shared_bytes;
};
// Runs body(arguments) as every thread of the grid. Returns when all have ended.
void run(const Configuration& configuration, void (*body)(const void*), const void* arguments);

template <class... Parameters>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block,
            size_t shared_bytes, CUstream_st*, std::type_identity_t<Parameters>... arguments) {
  static_assert((std::is_trivially_copyable_v<Parameters> && ...), "copied to the device bytewise");
  static_assert((sizeof(Parameters) + ... + 0) <= 4096, "more parameters than a launch can carry");
  struct Call {
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> parameters;
  };
  const Call call{kernel, std::tuple<Parameters...>(arguments...)};
  run(
      {name, reinterpret_cast<const void*>(kernel), grid, block, shared_bytes},
      [](const void* pointer) {
        const Call& c = *static_cast<const Call*>(pointer);
        std::apply(c.kernel, c.parameters);
      },
      &call);
}

// ---- For runtime.h ---------------------------------------------------------------------------

enum class Failure { kNone, kValue, kConfiguration, kAssert, kMisaligned, kLaunch };
Failure failure();
bool allow_shared_bytes(const void* kernel, int bytes);
int multiprocessors();

}  // namespace simt
