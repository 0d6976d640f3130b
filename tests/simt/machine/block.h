// SPDX-License-Identifier: BSD-3-Clause
// A block: its threads run until all have exited.
#pragma once

namespace simt::machine {

// What each thread does.
struct Body {
  void (*function)(const void*);
  const void* arguments;
};
extern Body body;

void create_threads();
void run_block();
void abandon_threads();  // after a failure: the next block begins with threads that have done
                         // nothing

}  // namespace simt::machine
