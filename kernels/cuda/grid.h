// SPDX-License-Identifier: BSD-3-Clause
// How many blocks share a kernel's tiles.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace fused_ce::cuda {

// As many as the current device can have at once of this kernel.
int64_t blocks_at_once(const void* kernel, int threads, size_t shared_bytes);

}  // namespace fused_ce::cuda
