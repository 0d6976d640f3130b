// SPDX-License-Identifier: BSD-3-Clause
#include "device.h"

#include <ATen/ops/empty.h>

#include <array>

#include "allocate.h"
#include "arguments.h"
#include "describe.h"
#include "shapes.h"

namespace fused_ce::device {
namespace {

// Filled while libraries are loaded, and only read afterwards.
std::array<Operators, c10::COMPILE_TIME_MAX_DEVICE_TYPES> operators_of{};

const Operators& operators(const at::Tensor& self) {
  const c10::DeviceType type = self.device().type();
  const Operators& found = operators_of[static_cast<size_t>(type)];
  TORCH_CHECK_NOT_IMPLEMENTED(found.forward, "fused_ce: this build has no kernels for ", type,
                              " (fused_ce.build_info() says what it has)");
  return found;
}

}  // namespace

void set_operators(c10::DeviceType type, const Operators& operators) {
  operators_of[static_cast<size_t>(type)] = operators;
}

void direct_forward(const Call& call, std::optional<at::ScalarType> dtype, bool save,
                    ops::ForwardResult& result) {
  operators(call.self).forward(call, dtype, save, result);
}

at::Tensor backward(const ops::Gradients& grads, const Call& call, const at::Tensor& saved,
                    const at::Tensor& total_weight) {
  check_backward(grads, call, saved, total_weight);
  const GradientFunction& compute = *operators(call.self).gradient;
  at::Tensor gradient = allocate_gradient_like(call.self);
  compute(grads, call, saved, total_weight, gradient);
  return gradient;
}

void backward_(const ops::Gradients& grads, const Call& call, const at::Tensor& saved,
               const at::Tensor& total_weight) {
  check_own_memory(call.self);
  for (const at::Tensor* grad : grads.all()) check_apart(call.self, *grad, "an incoming gradient");
  if (collapses(call.self)) {
    check_backward(grads, call, saved, total_weight);
    operators(call.self).gradient(grads, call, saved, total_weight, call.self);
  } else {  // the kernels would read a copy
    call.self.copy_(device::backward(grads, call, saved, total_weight));
  }
}

at::Tensor slice_sums(const Call& call) {
  at::Tensor sums =
      allocate({row_count(call.self).guard_int(__FILE__, __LINE__), SliceSums::kNumbers}, call.self,
               at::kDouble);
  operators(call.self).slice_sums(call, sums);
  return sums;
}

ops::ForwardResult forward(const Call& call, std::optional<at::ScalarType> dtype, bool save) {
  ops::ForwardResult result;
  direct_forward(call, dtype, save, result);
  if (result.total_weight.defined() && result.total_weight.is_alias_of(result.saved)) {
    const double value = *result.total_weight.const_data_ptr<double>();
    result.total_weight = allocate({}, call.self, at::kDouble);
    *result.total_weight.mutable_data_ptr<double>() = value;
  }
  replace_undefined(result, call.self);
  return result;
}

at::Tensor nothing(const at::Tensor& self, at::ScalarType dtype) {
  return at::empty({0}, self.options().dtype(dtype));
}

void replace_undefined(ops::ForwardResult& r, const at::Tensor& self) {
  const at::ScalarType type = accumulate_type(self);
  const auto replace = [&](at::Tensor& tensor, at::ScalarType dtype) {
    if (!tensor.defined()) tensor = nothing(self, dtype);
  };
  replace(r.z_loss, r.loss.scalar_type());
  replace(r.lse, type), replace(r.entropy, type), replace(r.confidence, type);
  replace(r.prediction, at::kLong);
  replace(r.saved, type);
  replace(r.total_weight, at::kDouble);
}

}  // namespace fused_ce::device
