// SPDX-License-Identifier: BSD-3-Clause
#include "capability.h"

#include <c10/util/Exception.h>

#include <cstdlib>
#include <string>

namespace fused_ce {
namespace {

cpu::Capability choose() {
  const char* wanted = std::getenv("FUSED_CE_CPU_CAPABILITY");
  cpu::Capability widest = cpu::Capability::kDefault;
  std::string names;
  for (const cpu::Capability capability : cpu::kCapabilities) {
    if (!cpu::supported(capability)) continue;
    const std::string name = cpu::capability_name(capability);
    if (wanted != nullptr && name == wanted) return capability;
    names += (names.empty() ? "" : ", ") + name;
    widest = capability;
  }
  if (wanted != nullptr) {
    TORCH_WARN("fused_ce: FUSED_CE_CPU_CAPABILITY=", wanted,
               " is ignored: this build has, and this machine runs, ", names, "; using ",
               cpu::capability_name(widest));
  }
  return widest;
}

}  // namespace

cpu::Capability active_capability() {
  static const cpu::Capability capability = choose();
  return capability;
}

}  // namespace fused_ce
