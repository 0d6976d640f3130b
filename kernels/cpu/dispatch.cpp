// SPDX-License-Identifier: BSD-3-Clause
#include "cpu.h"

namespace fused_ce::cpu {

namespace isa_default {
extern const Kernels kKernels;
}
#ifdef FUSED_CE_X86
namespace isa_avx2 {
extern const Kernels kKernels;
}
namespace isa_avx512 {
extern const Kernels kKernels;
}
namespace isa_avx512_bf16 {
extern const Kernels kKernels;
}

namespace {

// clang cannot ask for it; there is no processor with AVX2 and without.
bool supports_f16c() {
#if defined(__clang__)
  return __builtin_cpu_supports("avx2");
#else
  return __builtin_cpu_supports("f16c");
#endif
}

}  // namespace
#endif

const char* capability_name(Capability capability) {
  switch (capability) {
    case Capability::kAvx512BFloat16:
      return "avx512_bf16";
    case Capability::kAvx512:
      return "avx512";
    case Capability::kAvx2:
      return "avx2";
    default:
      return "default";
  }
}

bool supported(Capability capability) {
#ifdef FUSED_CE_X86
  switch (capability) {
    case Capability::kAvx512BFloat16:
      return __builtin_cpu_supports("avx512bf16") && supported(Capability::kAvx512);
    case Capability::kAvx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") && supports_f16c();
    case Capability::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("bmi2") && supports_f16c();
    default:
      return true;
  }
#else
  return capability == Capability::kDefault;
#endif
}

const Kernels& kernels(Capability capability) {
#ifdef FUSED_CE_X86
  if (capability == Capability::kAvx512BFloat16) return isa_avx512_bf16::kKernels;
  if (capability == Capability::kAvx512) return isa_avx512::kKernels;
  if (capability == Capability::kAvx2) return isa_avx2::kKernels;
#endif
  (void)capability;
  return isa_default::kKernels;
}

}  // namespace fused_ce::cpu
