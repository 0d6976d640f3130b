// SPDX-License-Identifier: BSD-3-Clause
// The CPU kernels: what a caller (the operator, a test, a C++ program) sees of them.
#pragma once

#include "../problem.h"

namespace fused_ce::cpu {

// Instruction sets the kernels are compiled for, narrowest first.
enum class Capability : int { kDefault, kAvx2, kAvx512, kAvx512BFloat16 };
inline constexpr Capability kCapabilities[] = {Capability::kDefault, Capability::kAvx2,
                                               Capability::kAvx512, Capability::kAvx512BFloat16};

// Gradients of so many bytes are streamed to memory: they leave the caches before anybody reads
// them. Well above the size of a shared cache; below, streaming costs twice the time of storing.
inline constexpr int64_t kStreamedBytes = 48 << 20;
static inline constexpr bool is_streamed(const Problem& p) {
  return rows_of(p) * p.classes * size_of(p.dtype) >= kStreamedBytes;
}

// Both functions work on the tasks [begin, end) of a problem: contiguous ranges of rows that may
// run in any order and on any thread. `partials` has one entry a task, indexed from task 0.
// `streamed`: whether gradients are; is_streamed says where that is faster.
struct Kernels {
  int64_t (*forward_tasks)(const Problem&);
  void (*forward)(const Problem&, const Forward&, int64_t begin, int64_t end, Partial* partials);
  int64_t (*backward_tasks)(const Problem&, const Backward&);
  void (*backward)(const Problem&, const Backward&, int64_t begin, int64_t end, bool streamed);
};

const char* capability_name(Capability capability);

// Whether this build has kernels for the capability and this machine can run them.
bool supported(Capability capability);

// Requires supported(capability).
const Kernels& kernels(Capability capability);

}  // namespace fused_ce::cpu
