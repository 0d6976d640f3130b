// SPDX-License-Identifier: BSD-3-Clause
// kernels/cuda/platform.cuh includes this in the place of the shim's header: the same CUDA on a
// CPU, but for a launch, which runs nothing and is written down.
#pragma once

#include "../../../simt/simt.h"

namespace recorder {

void record(void* kernel, unsigned grid, unsigned block, size_t shared_bytes);

template <class... Parameters>
void record(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes) {
  record(reinterpret_cast<void*>(kernel), grid.x, block.x, shared_bytes);
}

}  // namespace recorder

#undef FUSED_CE_LAUNCH
#define FUSED_CE_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  ::recorder::record((kernel), (grid), (block), (shared_bytes))
