// SPDX-License-Identifier: BSD-3-Clause
// Static shared memory: where it is, so that it can be poisoned.
#pragma once

#include <stddef.h>

namespace simt::machine {

struct Bytes {
  unsigned char* begin = nullptr;
  size_t size = 0;
};

// The thread-local variables of this module, in the calling thread: among them is all static
// shared memory, and nothing that somebody else uses, for a launch has a thread to itself.
Bytes thread_locals();

}  // namespace simt::machine
