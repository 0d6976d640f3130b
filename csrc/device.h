// SPDX-License-Identifier: BSD-3-Clause
// What computes the private operators on each type of device.
#pragma once

#include <c10/core/DeviceType.h>

#include "fused_ce.h"
#include "ops.h"

namespace fused_ce::device {

// Of checked arguments: the gradient of the logits, into a tensor that may be the logits.
using GradientFunction = void(const ops::Gradients& grads, const Call& call,
                              const at::Tensor& saved, const at::Tensor& total_weight,
                              const at::Tensor& gradient);

// Tensors of a result that nobody asked for may be undefined, and total_weight may lie in the
// memory of saved.
using ResultsFunction = void(const Call& call, std::optional<at::ScalarType> dtype, bool save,
                             ops::ForwardResult& result);
// Of a checked call of a slice of the classes that has some: its SliceSums (kernels/problem.h),
// (rows, numbers) doubles. Options::outputs says whether gaps and predictions are wanted.
using SliceFunction = void(const Call& call, const at::Tensor& sums);
struct Operators {
  ResultsFunction* forward;
  GradientFunction* gradient;
  SliceFunction* slice_sums;
};

// Called by each device's file when the library is loaded, and by tests that put other kernels in
// the place of a device's own.
FUSED_CE_API void set_operators(c10::DeviceType type, const Operators& operators);

// The operators on the device of the logits. Throws where this build has no kernels for it.
void direct_forward(const Call& call, std::optional<at::ScalarType> dtype, bool save,
                    ops::ForwardResult& result);
at::Tensor backward(const ops::Gradients& grads, const Call& call, const at::Tensor& saved,
                    const at::Tensor& total_weight);
void backward_(const ops::Gradients& grads, const Call& call, const at::Tensor& saved,
               const at::Tensor& total_weight);

at::Tensor slice_sums(const Call& call);

// The same for the dispatcher, to which every result is a tensor with memory of its own.
ops::ForwardResult forward(const Call& call, std::optional<at::ScalarType> dtype, bool save);

// A result that nobody asked for, as the dispatcher returns it: empty.
at::Tensor nothing(const at::Tensor& self, at::ScalarType dtype);
void replace_undefined(ops::ForwardResult& result, const at::Tensor& self);

}  // namespace fused_ce::device
