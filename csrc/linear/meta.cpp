// SPDX-License-Identifier: BSD-3-Clause
#include "meta.h"

#include <ATen/ops/empty.h>

#include "../arguments.h"
#include "../meta.h"
#include "arguments.h"
#include "device.h"

namespace fused_ce::linear::meta {
namespace {

Layer empty_like(const Layer& layer, Needs needs, at::ScalarType dtype) {
  Layer result;
  for (size_t i = 0; i < Layer::kCount; ++i) {
    const at::Tensor& tensor = *layer.all()[i];
    if (needs[i])
      *result.all()[i] = at::empty_symint(tensor.sym_sizes(), tensor.options().dtype(dtype));
  }
  device::replace_undefined(result, layer.input, dtype);
  return result;
}

}  // namespace

ops::LinearResult forward(const LinearCall& call, std::optional<at::ScalarType> dtype, bool save,
                          Needs needs) {
  const at::Tensor absent = absent_logits(call);
  check_forward(call, absent, dtype, needs);
  return {fused_ce::meta::forward(call.at(absent), dtype, save),
          empty_like(call.layer, needs, accumulate_type(absent))};
}

Layer backward(const ops::Gradients& grads, const LinearCall& call, const at::Tensor& saved,
               const at::Tensor& total_weight, Needs needs) {
  check_backward(grads, call, absent_logits(call), saved, total_weight, needs);
  return empty_like(call.layer, needs, call.layer.input.scalar_type());
}

}  // namespace fused_ce::linear::meta
