// SPDX-License-Identifier: BSD-3-Clause
// Which instruction set the CPU kernels use.
#pragma once

#include "../kernels/cpu/cpu.h"

namespace fused_ce {

// The widest that this machine runs, or what FUSED_CE_CPU_CAPABILITY (default, avx2, avx512 or
// avx512_bf16, read once) names instead. Warns of a name that means none of this machine's.
cpu::Capability active_capability();

// Whether this processor multiplies matrices of bfloat16 faster than of float: 478 GFLOP/s a core
// against 104 where it has instructions for that (EPYC Zen 5), 0.4 to 8 against 62 where not.
inline bool has_bfloat16_products() {
  return active_capability() == cpu::Capability::kAvx512BFloat16;
}

}  // namespace fused_ce
