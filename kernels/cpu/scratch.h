// SPDX-License-Identifier: BSD-3-Clause
// Memory for a loop and its buffers. They take up to 300 KB, of which a small problem touches a
// few: too much for the stack of a thread that somebody else made, which may have 64 KB in all.
#pragma once

#include <stddef.h>

namespace fused_ce::cpu {

// `bytes` of memory of the calling thread, aligned to a cache line. It is the same memory at every
// call, and kept until the thread ends: a small problem takes less time than an allocation would
// add to it, and pages that were touched once stay, as those of a stack do.
void* scratch(size_t bytes);

// The same beside it, for logits that a loop is to read, and their slopes (staged.h): 128 KB, or as
// many as the longest row takes.
void* staging(size_t bytes);

}  // namespace fused_ce::cpu
