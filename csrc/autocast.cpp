// Autocast on the CPU: see autocast.h.
#include "autocast.h"

#include <torch/library.h>

namespace fused_ce {

TORCH_LIBRARY_IMPL(fused_ce, AutocastCPU, m) {
  m.impl("cross_entropy", autocast::cross_entropy<c10::DispatchKey::AutocastCPU>);
}

}  // namespace fused_ce
