// SPDX-License-Identifier: BSD-3-Clause
// What derivatives a tensor asks for, and its tangent; none of a tensor that is not there.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>

namespace fused_ce {

inline at::Tensor tangent_of(const at::Tensor& tensor) {
  return tensor.defined() ? tensor._fw_grad(/*level=*/0) : at::Tensor();
}
inline at::Tensor primal_of(const at::Tensor& tensor) {
  return tensor.defined() ? tensor._fw_primal(/*level=*/0) : at::Tensor();
}
inline void set_tangent(const at::Tensor& result, const at::Tensor& tangent) {
  result._set_fw_grad(tangent, /*level=*/0, /*is_inplace_op=*/false);
}

// Throws where a tensor that `function` has no tangent for comes with one.
inline void check_no_tangent(const at::Tensor& tensor, const char* function) {
  TORCH_CHECK_NOT_IMPLEMENTED(!tangent_of(tensor).defined(), "fused_ce: ", function,
                              " has no derivative in forward mode (torch.func.jvp, dual numbers)");
}

inline bool requires_grad(const at::Tensor& tensor) {
  return tensor.defined() && at::GradMode::is_enabled() && tensor.requires_grad();
}
inline bool has_derivative(const at::Tensor& tensor) {
  return tensor.defined() && (requires_grad(tensor) || tangent_of(tensor).defined());
}

}  // namespace fused_ce
