// Tensors as the kernels' plain structs, for every device.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/MaybeOwned.h>

#include "../kernels/problem.h"
#include "ops.h"

namespace fused_ce {

// Of a floating point type that the kernels know.
DType kernel_type(at::ScalarType type);

using MaybeOwned = c10::MaybeOwned<at::Tensor>;

// A problem, and what its pointers point into.
struct Described {
  MaybeOwned self, target, weight;
  at::Tensor weight_sum;
  Problem problem{};
  bool as_plane = false;
  int64_t rows() const { return problem.outer * problem.inner; }
};

// Of a call whose arguments are checked.
Described describe(const Call& call);

// What forward leaves, allocated: `loss` only where each row has its own, the others where there
// will be a backward.
struct RowResults {
  at::Tensor loss, saved, total_weight;
  Forward out{};
};

RowResults allocate_rows(const Call& call, const Described& described, at::ScalarType dtype,
                         bool save);

// The gradient, allocated, and what it is computed from beside the problem.
struct Gradient {
  at::Tensor logits;
  MaybeOwned grad_output, saved;
  Backward from{};
};

Gradient allocate_gradient(const at::Tensor& grad_output, const Call& call,
                           const Described& described, const at::Tensor& saved,
                           const at::Tensor& total_weight);

}  // namespace fused_ce
