// SPDX-License-Identifier: BSD-3-Clause
// What the arguments must be, and what follows from them: the one place for every path.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/SymIntArrayRef.h>

#include <optional>

#include "ops.h"

namespace fused_ce {

// Whether target holds class probabilities: it has the logits' own shape. Where a trace does not
// know sizes, as many dimensions of a floating point type are enough, and the checks say that the
// sizes must agree.
bool is_probabilities(const at::Tensor& self, const at::Tensor& target);

// float for float and the half types, double for double: what sums, weights and saved numbers are
// held in.
at::ScalarType accumulate_type(const at::Tensor& self);

// The dtype of torch's loss, if the logits were of the type `self`.
at::ScalarType loss_type(at::ScalarType self, const Call& call);

// The floating point types that the kernels know.
bool is_supported(at::ScalarType type);

// Whether two sizes, or shapes, are equal. Those that a trace does not know are compared when the
// traced program runs (TORCH_SYM_CHECK and its kin): a decision would refuse to be traced.
bool must_equal(const c10::SymInt& a, const c10::SymInt& b);
bool must_equal(c10::SymIntArrayRef a, c10::SymIntArrayRef b);

// Throw where an argument of `function` has no memory that the kernels could read, or is not on the
// device of the input.
void check_dense(const at::Tensor& tensor, const char* name,
                 const char* function = "cross_entropy");
void check_device(const at::Tensor& self, const at::Tensor& tensor, const char* name);

// Throws where the logits of `function` are of no kind that the kernels know.
void check_input(const at::Tensor& self, const char* function);

// Throws what torch throws (type and meaning). `dtype`: of the loss, if that was given. Returns the
// dtype of the loss. Class indices are not looked at here: their range is checked where they are
// read.
at::ScalarType check_forward(const Call& call, std::optional<at::ScalarType> dtype);

// The same for what backward takes. The weights' dtype depends on the loss's, which is unknown
// here.
void check_backward(const ops::Gradients& grads, const Call& call, const at::Tensor& saved,
                    const at::Tensor& total_weight);

// Throws where the gradient cannot overwrite the logits: somebody else would see it, or there is no
// place of its own for each number. What is found out only later is told by the logits' version.
void check_in_place(const Call& call);

// Of these, whether there is no place.
void check_own_memory(const at::Tensor& self);

// Throws where what is `name`, if it is defined, shares memory with logits that are overwritten.
void check_apart(const at::Tensor& self, const at::Tensor& other, const char* name);

}  // namespace fused_ce
