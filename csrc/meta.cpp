// Shapes and dtypes of the private operators' results: for meta and fake tensors.
#include <ATen/core/Reduction.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "arguments.h"
#include "ops.h"

namespace fused_ce {
namespace {

ops::ForwardResult forward(const at::Tensor& self, const at::Tensor& target,
                           const std::optional<at::Tensor>& weight, int64_t reduction,
                           c10::SymInt ignore_index, double label_smoothing, at::ScalarType dtype) {
  check_arguments(self, target, weight, reduction, ignore_index, label_smoothing,
                  /*same_weight_dtype=*/false);
  c10::SymDimVector rows(self.sym_sizes().begin(), self.sym_sizes().end());
  rows.erase(rows.begin() + 1);
  c10::SymInt count = 1;
  for (const c10::SymInt& size : rows) count *= size;
  const auto options = self.options();
  return {reduction == at::Reduction::None ? at::empty_symint(rows, options.dtype(dtype))
                                           : at::empty({}, options.dtype(dtype)),
          at::empty_symint({3, count}, options.dtype(accumulate_type(self))),
          at::empty({}, options.dtype(at::kDouble))};
}

at::Tensor backward(const at::Tensor&, const at::Tensor& self, const at::Tensor&,
                    const std::optional<at::Tensor>&, int64_t, c10::SymInt, double,
                    const at::Tensor&, const at::Tensor&) {
  return at::empty_like(self);
}

}  // namespace

TORCH_LIBRARY_IMPL(fused_ce, Meta, m) {
  m.impl("_forward", forward);
  m.impl("_backward", backward);
}

}  // namespace fused_ce
