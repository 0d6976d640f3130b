// SPDX-License-Identifier: BSD-3-Clause
// What ends a launch: the first failure of its threads.
#pragma once

#include "../machine.h"
#include "fiber.h"

namespace simt::machine {

extern bool failed;
extern Failure failed_as;
extern char failure_text[1024];

// Ends the launch: the running thread is left where it is, as all others are.
[[gnu::format(printf, 2, 3)]] void fail(Failure kind, const char* format, ...);

// A place in the source, for messages.
struct Place {
  char text[256];
  explicit Place(Where where);
};
bool same_place(Where a, Where b);

// Ends the process where the running thread is none of a kernel's.
void require_kernel(Where where);

}  // namespace simt::machine
