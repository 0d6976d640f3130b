// Which instruction set the CPU kernels use.
#pragma once

#include "../kernels/cpu/cpu.h"

namespace fused_ce {

// The widest that this machine runs, or what FUSED_CE_CPU_CAPABILITY (default, avx2, avx512 or
// avx512_bf16, read once) names instead. Warns of a name that means none of this machine's.
cpu::Capability active_capability();

}  // namespace fused_ce
