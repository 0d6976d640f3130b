// SPDX-License-Identifier: BSD-3-Clause
// CUDA C++ without CUDA: runs the kernels' unchanged source on the CPU, one fiber for each thread,
// one block at a time, so that a machine without a GPU can tell whether they are right.
//
//   g++ -std=c++20 -DFUSED_CE_SIMT -Itests/simt -Wno-unknown-pragmas -x c++ KERNELS.cu
//       -x c++ tests/simt/machine/*.cpp
//
// The kernels and the machine are linked into the same module (program or shared library). The
// macros below, and `assert`, suit kernel code alone: include other headers before this one.
// README.md beside this file says what is detected, and what is not.
#pragma once

#include <assert.h>

#include "halves.h"
#include "intrinsics.h"
#include "machine.h"
#include "runtime.h"
#include "types.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

// Shared memory has to be found, to be poisoned: as thread-local variables all of it lies in one
// piece, and a launch runs on a thread of its own. AddressSanitizer puts red zones around plain
// static variables only; there, the red zones are worth more.
#ifdef __SANITIZE_ADDRESS__
#define __shared__ static
#else
#define __shared__ static thread_local
#endif

#undef assert  // a failed one ends the launch and not the process
#define assert(condition)             \
  ((condition) ? static_cast<void>(0) \
               : ::simt::assertion_failed(#condition, ::simt::Where::current()))

#define FUSED_CE_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  ::simt::launch(#kernel, (kernel), (grid), (block), (shared_bytes),    \
                 (stream)__VA_OPT__(, ) __VA_ARGS__)

#define FUSED_CE_DYNAMIC_SHARED(T, name) \
  T* const name = reinterpret_cast<T*>(::simt::block.dynamic_shared)
