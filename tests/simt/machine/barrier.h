// SPDX-License-Identifier: BSD-3-Clause
// __syncthreads.
#pragma once

namespace simt::machine {

void clear_barrier();
// Releases the barrier if every thread that has not exited waits at it.
void check_barrier();
int waiting_at_barrier();

}  // namespace simt::machine
