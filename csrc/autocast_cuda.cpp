// Autocast on CUDA: see autocast.h. In every build, for it needs nothing of CUDA.
#include "autocast.h"

#include <torch/library.h>

namespace fused_ce {

TORCH_LIBRARY_IMPL(fused_ce, AutocastCUDA, m) {
  m.impl("cross_entropy", autocast::cross_entropy<c10::DispatchKey::AutocastCUDA>);
}

}  // namespace fused_ce
