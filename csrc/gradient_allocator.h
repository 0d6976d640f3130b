// SPDX-License-Identifier: BSD-3-Clause
// Where gradients lie in memory.
#pragma once

#include <c10/core/Allocator.h>

namespace fused_ce {

// Of a gradient of so many bytes on the CPU: torch's own, or for a large one the allocator whose
// memory is kept for the next (see kept_memory.h).
c10::Allocator* gradient_allocator(size_t bytes);

}  // namespace fused_ce
