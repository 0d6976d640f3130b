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
struct Operators {
  ops::ForwardFunction* forward;
  GradientFunction* gradient;
};

// Called by each device's file when the library is loaded, and by tests that put other kernels in
// the place of a device's own.
FUSED_CE_API void set_operators(c10::DeviceType type, const Operators& operators);

// The operators on the device of the logits. Throws where this build has no kernels for it.
ops::ForwardResult direct_forward(const Call& call, std::optional<at::ScalarType> dtype, bool save);
at::Tensor backward(const ops::Gradients& grads, const Call& call, const at::Tensor& saved,
                    const at::Tensor& total_weight);
void backward_(const ops::Gradients& grads, const Call& call, const at::Tensor& saved,
               const at::Tensor& total_weight);

// The same for the dispatcher, to which every result is a tensor with memory of its own.
ops::ForwardResult forward(const Call& call, std::optional<at::ScalarType> dtype, bool save);

// A result that nobody asked for, as the dispatcher returns it: empty.
at::Tensor nothing(const at::Tensor& self, at::ScalarType dtype);
void replace_undefined(ops::ForwardResult& result, const at::Tensor& self);

}  // namespace fused_ce::device
