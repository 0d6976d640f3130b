// SPDX-License-Identifier: BSD-3-Clause
// kernels/cuda/platform.cuh includes this in the place of the shim's header: the same CUDA on a
// CPU, but for a launch, which runs nothing and is written down.
#pragma once

#include <initializer_list>
#include <type_traits>

#include "../../../simt/simt.h"

namespace recorder {

struct Bytes {
  const void* data;
  size_t size;
};

void record(void* kernel, unsigned grid, unsigned block, size_t shared_bytes,
            std::initializer_list<Bytes> arguments);

template <class... Parameters>
void record(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
            const std::type_identity_t<Parameters>&... arguments) {
  record(reinterpret_cast<void*>(kernel), grid.x, block.x, shared_bytes,
         {Bytes{&arguments, sizeof arguments}...});
}

}  // namespace recorder

#undef FUSED_CE_LAUNCH
#define FUSED_CE_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  ::recorder::record((kernel), (grid), (block), (shared_bytes), __VA_ARGS__)
