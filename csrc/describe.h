// SPDX-License-Identifier: BSD-3-Clause
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
  MaybeOwned self, target, weight, row_weight;
  at::Tensor weight_sum;
  Problem problem{};
  bool as_plane = false;
  int64_t rows() const { return problem.outer * problem.inner; }
};

// A call's class weights as the kernels read them: in order, of the type that logits are added up
// in. Undefined where there are none.
MaybeOwned class_weight_of(const Call& call);
// Their sum, one double: the call's, where it has it. Undefined where nothing asks for it, or all
// of them are 1.
at::Tensor weight_sum_of(const Call& call, const at::Tensor& class_weight);

// Of a call whose arguments are checked.
Described describe(const Call& call);

// What forward leaves, allocated: one number a row, and where there will be a backward what it
// needs. A reduced loss is the device's to add.
Forward allocate_rows(const Call& call, const Described& described, at::ScalarType dtype, bool save,
                      ops::ForwardResult& result);

// What forward leaves of a slice of the classes.
Forward slice_forward(const Call& call, const at::Tensor& sums);

// What backward reads beside the problem, and where it writes the gradient.
struct Given {
  MaybeOwned loss, z_loss, lse, entropy, saved;
  Backward back{};
};

Given describe_backward(const ops::Gradients& grads, const Call& call, const Described& described,
                        const at::Tensor& saved, const at::Tensor& total_weight,
                        const at::Tensor& gradient);

// Whether the kernels can walk a tensor as it lies in memory.
bool collapses(const at::Tensor& tensor);

}  // namespace fused_ce
