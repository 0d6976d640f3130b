// The operators, called through the dispatcher.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace fused_ce::ops {

using ForwardResult = std::tuple<at::Tensor, at::Tensor, at::Tensor>;  // loss, saved, total_weight

at::Tensor cross_entropy(const at::Tensor& self, const at::Tensor& target,
                         const std::optional<at::Tensor>& weight, int64_t reduction,
                         c10::SymInt ignore_index, double label_smoothing);

ForwardResult forward(const at::Tensor& self, const at::Tensor& target,
                      const std::optional<at::Tensor>& weight, int64_t reduction,
                      c10::SymInt ignore_index, double label_smoothing, at::ScalarType dtype);

at::Tensor backward(const at::Tensor& grad_output, const at::Tensor& self, const at::Tensor& target,
                    const std::optional<at::Tensor>& weight, int64_t reduction,
                    c10::SymInt ignore_index, double label_smoothing, const at::Tensor& saved,
                    const at::Tensor& total_weight);

}  // namespace fused_ce::ops
