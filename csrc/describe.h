// Tensors as the kernels' plain structs, for every device.
#pragma once

#include "../kernels/problem.h"

#include <ATen/core/Tensor.h>

#include <optional>

namespace fused_ce {

// Of a floating point type that the kernels know.
DType kernel_type(at::ScalarType type);

struct Described {
  at::Tensor self, target, weight, weight_sum;  // what the pointers point into
  Problem problem{};
  bool as_plane = false;
  int64_t rows() const { return problem.outer * problem.inner; }
};

// Checks the arguments first: pointers are taken here.
Described describe(const at::Tensor& self, const at::Tensor& target,
                   const std::optional<at::Tensor>& weight, int64_t reduction, int64_t ignore_index,
                   double label_smoothing);

// What forward returns, allocated: `loss` only where each row has its own.
struct ForwardResults {
  at::Tensor saved, loss;
  Forward out{};
};

ForwardResults forward_results(const at::Tensor& self, const Described& described,
                               int64_t reduction, at::ScalarType dtype);

// What backward returns, allocated, and what it reads beside the problem.
struct BackwardResults {
  at::Tensor grad_logits;
  at::Tensor grad_output, saved, total_weight;  // what the pointers point into
  Backward out{};
};

BackwardResults backward_results(const at::Tensor& grad_output, const at::Tensor& self,
                                 const Described& described, int64_t reduction,
                                 const at::Tensor& saved, const at::Tensor& total_weight);

}  // namespace fused_ce
