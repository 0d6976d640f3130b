// Where gradients lie in memory.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/MemoryFormat.h>

namespace fused_ce {

// As at::empty_like, for a result that is written from end to end. On the CPU, a large one lies in
// huge pages, and in memory that is kept for the next (see kept_memory.h).
at::Tensor gradient_like(const at::Tensor& self,
                         at::MemoryFormat memory_format = at::MemoryFormat::Preserve);

}  // namespace fused_ce
