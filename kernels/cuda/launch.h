// SPDX-License-Identifier: BSD-3-Clause
// What kernels.cu defines once for each storage type, and launch.cu calls.
#pragma once

#include "plan.h"
#include "tiles.h"

namespace fused_ce::cuda {

#define FUSED_CE_DECLARE_LAUNCHERS(name)                                                   \
  namespace name {                                                                         \
  void forward(const Problem& p, const Forward& out, const Plan& plan, const Tiles& tiles, \
               void* slice_sums, Stream stream);                                           \
  void backward(const Problem& p, const Backward& back, const Plan& plan, Stream stream);  \
  }
FUSED_CE_DECLARE_LAUNCHERS(of_float)
FUSED_CE_DECLARE_LAUNCHERS(of_double)
FUSED_CE_DECLARE_LAUNCHERS(of_bfloat16)
FUSED_CE_DECLARE_LAUNCHERS(of_half)
#undef FUSED_CE_DECLARE_LAUNCHERS

}  // namespace fused_ce::cuda
