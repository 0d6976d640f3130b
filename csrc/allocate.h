// SPDX-License-Identifier: BSD-3-Clause
// Memory for results. On the CPU without the dispatcher, a third cheaper: below it there is nobody
// left to ask.
#pragma once

#include <ATen/core/Tensor.h>

namespace fused_ce {

// A contiguous tensor on the device of `self`.
at::Tensor allocate(at::IntArrayRef sizes, const at::Tensor& self, at::ScalarType dtype);

// What forward saves, numbers by rows, and what a mean divides by. They share their memory, and so
// do not cost two allocations; device.h parts them for the dispatcher.
struct SavedNumbers {
  at::Tensor saved, total_weight;
};
SavedNumbers allocate_saved(at::IntArrayRef sizes, const at::Tensor& self, at::ScalarType dtype);

// The gradient of the logits, see shapes.h.
at::Tensor allocate_gradient_like(const at::Tensor& self);

}  // namespace fused_ce
