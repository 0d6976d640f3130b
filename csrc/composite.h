#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace fused_ce {

// cross_entropy with the dtype of the loss given: what autocast asks for. nullopt: torch's dtype
// for these arguments.
at::Tensor composite(const at::Tensor& self, const at::Tensor& target,
                     const std::optional<at::Tensor>& weight, int64_t reduction,
                     c10::SymInt ignore_index, double label_smoothing,
                     std::optional<at::ScalarType> dtype);

}  // namespace fused_ce
