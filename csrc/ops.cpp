#include "ops.h"

#include <ATen/core/dispatch/Dispatcher.h>

#include <utility>

// Looked up once: a lookup by name costs more than a small loss. The handles outlive every call,
// for the registrations live in this library.
namespace fused_ce::ops {

at::Tensor cross_entropy(const at::Tensor& self, const at::Tensor& target,
                         const std::optional<at::Tensor>& weight, int64_t reduction,
                         c10::SymInt ignore_index, double label_smoothing) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("fused_ce::cross_entropy", "")
          .typed<at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                            int64_t, c10::SymInt, double)>();
  return op.call(self, target, weight, reduction, std::move(ignore_index), label_smoothing);
}

ForwardResult forward(const at::Tensor& self, const at::Tensor& target,
                      const std::optional<at::Tensor>& weight, int64_t reduction,
                      c10::SymInt ignore_index, double label_smoothing, at::ScalarType dtype) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("fused_ce::_forward", "")
                             .typed<ForwardResult(const at::Tensor&, const at::Tensor&,
                                                  const std::optional<at::Tensor>&, int64_t,
                                                  c10::SymInt, double, at::ScalarType)>();
  return op.call(self, target, weight, reduction, std::move(ignore_index), label_smoothing, dtype);
}

at::Tensor backward(const at::Tensor& grad_output, const at::Tensor& self, const at::Tensor& target,
                    const std::optional<at::Tensor>& weight, int64_t reduction,
                    c10::SymInt ignore_index, double label_smoothing, const at::Tensor& saved,
                    const at::Tensor& total_weight) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("fused_ce::_backward", "")
          .typed<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                            const std::optional<at::Tensor>&, int64_t, c10::SymInt, double,
                            const at::Tensor&, const at::Tensor&)>();
  return op.call(grad_output, self, target, weight, reduction, std::move(ignore_index),
                 label_smoothing, saved, total_weight);
}

}  // namespace fused_ce::ops
