// SPDX-License-Identifier: BSD-3-Clause
// Warp intrinsics: lanes that meet, and exchange what they post.
#pragma once

#include "scheduler.h"

namespace simt::machine {

void clear_warps();
void enter_warp(const CudaThread& t);
void leave_warp(const CudaThread& t);  // as it exits

}  // namespace simt::machine
