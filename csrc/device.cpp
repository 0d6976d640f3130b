#include "device.h"

#include <ATen/ops/empty.h>

#include <array>

#include "allocate.h"

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

ops::ForwardResult direct_forward(const Call& call, std::optional<at::ScalarType> dtype,
                                  bool save) {
  return operators(call.self).forward(call, dtype, save);
}

at::Tensor backward(const at::Tensor& grad_output, const Call& call, const at::Tensor& saved,
                    const at::Tensor& total_weight) {
  return operators(call.self).backward(grad_output, call, saved, total_weight);
}

ops::ForwardResult forward(const Call& call, std::optional<at::ScalarType> dtype, bool save) {
  ops::ForwardResult result = direct_forward(call, dtype, save);
  if (!result.saved.defined()) result.saved = nothing(call.self, at::kFloat);
  if (!result.total_weight.defined()) {
    result.total_weight = nothing(call.self, at::kDouble);
  } else if (result.total_weight.is_alias_of(result.saved)) {
    const double value = *result.total_weight.const_data_ptr<double>();
    result.total_weight = allocate({}, call.self, at::kDouble);
    *result.total_weight.mutable_data_ptr<double>() = value;
  }
  return result;
}

at::Tensor nothing(const at::Tensor& self, at::ScalarType dtype) {
  return at::empty({0}, self.options().dtype(dtype));
}

}  // namespace fused_ce::device
