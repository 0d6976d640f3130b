// SPDX-License-Identifier: BSD-3-Clause
// A grid: its blocks run one after another.
#pragma once

#include "../machine.h"

namespace simt::machine {

// Of the blocks, numbered x fastest: both included.
struct Selection {
  uint64_t first = 0, last = UINT64_MAX;
};

void run_grid(const Configuration& configuration, Selection selection, uint8_t poison);

}  // namespace simt::machine
