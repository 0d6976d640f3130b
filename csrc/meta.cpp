#include "meta.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>

#include "arguments.h"
#include "device.h"
#include "shapes.h"

namespace fused_ce::meta {

ops::ForwardResult forward(const Call& call, std::optional<at::ScalarType> dtype, bool save) {
  const at::ScalarType type = check_forward(call, dtype);
  const at::Tensor& self = call.self;
  const auto options = self.options();
  return {at::empty_symint(loss_shape(call), options.dtype(type)),
          save ? at::empty_symint({3, row_count(self)}, options.dtype(accumulate_type(self)))
               : device::nothing(self, at::kFloat),
          save && call.options.is_mean() ? at::empty({}, options.dtype(at::kDouble))
                                         : device::nothing(self, at::kDouble)};
}

at::Tensor backward(const at::Tensor& grad_output, const Call& call, const at::Tensor& saved,
                    const at::Tensor& total_weight) {
  check_backward(grad_output, call, saved, total_weight);
  const at::Tensor& self = call.self;
  const auto strides = gradient_strides(self);
  return strides ? at::empty_strided_symint(self.sym_sizes(), *strides, self.options())
                 : at::empty_symint(self.sym_sizes(), self.options());
}

}  // namespace fused_ce::meta
