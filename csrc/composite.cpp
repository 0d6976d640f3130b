// SPDX-License-Identifier: BSD-3-Clause
#include "composite.h"

#include <ATen/ops/zeros.h>

#include "arguments.h"
#include "autocast.h"
#include "device.h"
#include "direct.h"
#include "shapes.h"

namespace fused_ce::composite {

at::Tensor cross_entropy(const Call& call) {
  ops::ForwardResult result;
  if (direct(call, std::nullopt, result)) return std::move(result.loss);
  // Below vmap and its kin, autocast's turn comes after the operators have fallen apart.
  return autocast::is_enabled(call.self) ? autocast::cross_entropy(call)
                                         : dispatched(call, std::nullopt).loss;
}

ops::ForwardResult cross_entropy_stats(const Call& call, std::optional<at::ScalarType> dtype) {
  ops::ForwardResult result;
  if (direct(call, dtype, result)) {
    device::replace_undefined(result, call.self);
    return result;
  }
  return autocast::is_enabled(call.self) ? autocast::cross_entropy_stats(call, dtype)
                                         : dispatched(call, dtype);
}

ops::ForwardResult predict(const at::Tensor& self, const Options& given) {
  check_input(self, "predict");
  TORCH_CHECK_INDEX(self.dim() > 0,
                    "Expected input of at least one dimension, (C) or (N, C, ...), got a scalar");
  TORCH_CHECK_INDEX(TORCH_GUARD_OR_TRUE(self.sym_size(class_dim(self)).sym_ne(0)),
                    "predict(): input has no classes: shape ", self.sym_sizes());
  Options options = given;
  options.reduction = at::Reduction::Sum;  // of a loss that nobody looks at
  options.outputs[kLse] = options.outputs[kEntropy] = options.outputs[kPrediction] = true;
  // Every row counts, whatever its class.
  const at::Tensor target = at::zeros_symint(row_shape(self), self.options().dtype(at::kByte));
  const Call call{self, target, undefined(), options};
  ops::ForwardResult result;
  if (!direct(call, std::nullopt, result)) result = dispatched(call, std::nullopt);
  return result;
}

ops::ForwardResult dispatched(const Call& call, std::optional<at::ScalarType> dtype) {
  check_forward(call, dtype);
  // Whether backward needs anything is asked where the tensors of each level are seen:
  // autograd.cpp.
  return ops::forward(call, dtype, /*save=*/false);
}

}  // namespace fused_ce::composite
