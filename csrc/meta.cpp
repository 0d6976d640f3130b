// SPDX-License-Identifier: BSD-3-Clause
#include "meta.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>

#include "arguments.h"
#include "device.h"
#include "shapes.h"

namespace fused_ce::meta {

ops::ForwardResult forward(const Call& call, std::optional<at::ScalarType> dtype, bool save) {
  const at::ScalarType loss = check_forward(call, dtype);
  const at::Tensor& self = call.self;
  const Options& options = call.options;
  const at::ScalarType type = accumulate_type(self);
  const auto empty = [&](c10::SymIntArrayRef shape, at::ScalarType t) {
    return at::empty_symint(shape, self.options().dtype(t));
  };
  const c10::SymDimVector rows = row_shape(self);
  ops::ForwardResult result;
  result.loss = empty(loss_shape(call), loss);
  if (options.wants(kZLoss)) result.z_loss = empty(loss_shape(call), loss);
  if (options.wants(kLse)) result.lse = empty(rows, type);
  if (options.wants(kEntropy)) result.entropy = empty(rows, type);
  if (options.wants(kPrediction)) {
    result.prediction = empty(rows, at::kLong);
    result.confidence = empty(rows, type);
  }
  if (save) result.saved = empty({options.saved_numbers(), row_count(self)}, type);
  if (save && options.is_mean()) result.total_weight = empty({}, at::kDouble);
  device::replace_undefined(result, self);
  return result;
}

at::Tensor backward(const ops::Gradients& grads, const Call& call, const at::Tensor& saved,
                    const at::Tensor& total_weight) {
  check_backward(grads, call, saved, total_weight);
  const at::Tensor& self = call.self;
  const auto strides = gradient_strides(self);
  return strides ? at::empty_strided_symint(self.sym_sizes(), *strides, self.options())
                 : at::empty_symint(self.sym_sizes(), self.options());
}

void backward_(const ops::Gradients& grads, const Call& call, const at::Tensor& saved,
               const at::Tensor& total_weight) {
  check_own_memory(call.self);
  check_backward(grads, call, saved, total_weight);
}

}  // namespace fused_ce::meta
