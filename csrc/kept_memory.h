// SPDX-License-Identifier: BSD-3-Clause
// Memory for large gradients, which outlives a gradient: the next one finds its pages there. The
// kernel takes longer to make pages than we take to write to them.
//
// A process keeps one block at most. While nobody uses it, Linux may have its pages whenever it
// runs short of memory, and a forked child does not inherit it. empty_cache() and kept_bytes(),
// for the users, are in fused_ce.h.
#pragma once

#include <cstddef>

namespace fused_ce {

// What is smaller comes from malloc, which keeps some of its own.
constexpr size_t kSmallestKept = 4 << 20;

// Whether the two functions below may be called: not where FUSED_CE_KEEP_MEMORY=0 (read once), and
// on Linux alone.
bool keeps_memory();

// At least so many bytes, in huge pages and not initialised: the kept block, or a new one. nullptr
// where the system has no more, even after the kept block went back to it.
void* take_block(size_t bytes);

// Ends the use of memory from take_block: it is kept, unless a larger block is kept already.
void give_block(void* start);

}  // namespace fused_ce
