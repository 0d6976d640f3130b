// What the arguments must be, checked once for every path, and what follows from them.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace fused_ce {

// Whether target holds class probabilities: its shape is the logits' own.
bool is_probabilities(const at::Tensor& self, const at::Tensor& target);

// float for float and the half types, double for double: what sums, weights and saved numbers are
// held in.
at::ScalarType accumulate_type(const at::Tensor& self);

// The dtype of torch's loss.
at::ScalarType loss_type(const at::Tensor& self, const at::Tensor& target,
                         const std::optional<at::Tensor>& weight);

// Throws what torch throws (type and meaning). self: (C) or (N, C, d1, ..., dK).
// Class indices are not looked at here: their range is checked where they are read.
void check_arguments(const at::Tensor& self, const at::Tensor& target,
                     const std::optional<at::Tensor>& weight, int64_t reduction,
                     const c10::SymInt& ignore_index, double label_smoothing,
                     bool same_weight_dtype);

}  // namespace fused_ce
