// What derivatives a tensor asks for, and its tangent; none of a tensor that is not there.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

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

inline bool requires_grad(const at::Tensor& tensor) {
  return tensor.defined() && at::GradMode::is_enabled() && tensor.requires_grad();
}
inline bool has_derivative(const at::Tensor& tensor) {
  return tensor.defined() && (requires_grad(tensor) || tangent_of(tensor).defined());
}

}  // namespace fused_ce
