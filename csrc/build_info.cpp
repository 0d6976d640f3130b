// SPDX-License-Identifier: BSD-3-Clause
// What was built, and what runs: asked for by bug reports, by the benchmarks and by the tests.
#include <torch/version.h>

#include <sstream>
#include <string>

#include "capability.h"
#include "fused_ce.h"

#if defined(__clang__)
#define FUSED_CE_COMPILER "clang " __clang_version__
#elif defined(__GNUC__)
#define FUSED_CE_COMPILER "gcc " __VERSION__
#else
#define FUSED_CE_COMPILER "unknown"
#endif

namespace fused_ce {

BuildInfo build_info() {
  BuildInfo info;
  info.version = FUSED_CE_VERSION;
  info.torch = TORCH_VERSION;
  info.compiler = FUSED_CE_COMPILER;
  info.cpu_capability = cpu::capability_name(active_capability());
  for (const cpu::Capability capability : cpu::kCapabilities) {
    if (cpu::supported(capability)) {
      info.cpu_capabilities.emplace_back(cpu::capability_name(capability));
    }
  }
  info.bfloat16_products = has_bfloat16_products() ? "bfloat16" : "float32";
#ifdef _OPENMP
  info.openmp = true;
#else
  info.openmp = false;
#endif
#ifdef FUSED_CE_CUDA_VERSION
  info.cuda = true;
  info.cuda_version = FUSED_CE_CUDA_VERSION;
  std::istringstream architectures(FUSED_CE_CUDA_ARCHITECTURES);  // separated by spaces
  for (std::string name; architectures >> name;) info.cuda_architectures.push_back(name);
#else
  info.cuda = false;
#endif
  return info;
}

}  // namespace fused_ce
