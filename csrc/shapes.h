// SPDX-License-Identifier: BSD-3-Clause
// The shapes and the layouts of what the operators return, decided once for all devices and for
// tensors that are only traced.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/SymIntArrayRef.h>

#include <optional>

#include "options.h"

namespace fused_ce {

// Which dimension of the logits holds the classes.
inline int64_t class_dim(const at::Tensor& self) { return self.dim() > 1 ? 1 : 0; }

// The logits' shape without the classes: that of one number a row.
c10::SymDimVector row_shape(const at::Tensor& self);

// That of the loss, of each row or reduced.
c10::SymDimVector loss_shape(const Call& call);

// How many numbers a row_shape has.
c10::SymInt row_count(const at::Tensor& self);

// The strides of the gradient: the logits' own where these are contiguous but for the place of the
// classes, first or last; nullopt: contiguous. So the gradient is written in long runs, and the
// kernels can walk its dimensions behind the classes by one stride.
std::optional<c10::SymDimVector> gradient_strides(const at::Tensor& self);

}  // namespace fused_ce
