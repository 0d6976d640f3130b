// cross_entropy in terms of the private operators: normalises the shapes and chooses the path.
#include "composite.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <torch/library.h>

#include <utility>

#include "arguments.h"
#include "ops.h"

namespace fused_ce {
namespace {

// torch.func's wrappers and forward-mode tangents have no kernel of ours: C++ autograd functions
// cannot carry them.
bool is_transformed(const at::Tensor& tensor) {
  constexpr c10::DispatchKeySet kFunctorch(
      {c10::DispatchKey::FuncTorchGradWrapper, c10::DispatchKey::FuncTorchBatched});
  return tensor.key_set().has_any(kFunctorch) || tensor._fw_grad(/*level=*/0).defined();
}

// Whether torch's own composition of operations must answer: it differentiates by arguments that
// the kernels take as constants (probabilities, weights), and can be transformed.
bool needs_aten(const at::Tensor& self, const at::Tensor& target,
                const std::optional<at::Tensor>& weight) {
  if (is_transformed(self) || is_transformed(target) || (weight && is_transformed(*weight)))
    return true;
  return at::GradMode::is_enabled() &&
         (target.requires_grad() || (weight && weight->requires_grad()));
}

at::Tensor cross_entropy(const at::Tensor& self, const at::Tensor& target,
                         const std::optional<at::Tensor>& weight, int64_t reduction,
                         c10::SymInt ignore_index, double label_smoothing) {
  return composite(self, target, weight, reduction, std::move(ignore_index), label_smoothing,
                   std::nullopt);
}

}  // namespace

at::Tensor composite(const at::Tensor& self, const at::Tensor& target,
                     const std::optional<at::Tensor>& weight, int64_t reduction,
                     c10::SymInt ignore_index, double label_smoothing,
                     std::optional<at::ScalarType> dtype) {
  check_arguments(self, target, weight, reduction, ignore_index, label_smoothing,
                  /*same_weight_dtype=*/!dtype);
  if (needs_aten(self, target, weight)) {
    if (!dtype) {
      return at::cross_entropy_loss_symint(self, target, weight, reduction, std::move(ignore_index),
                                           label_smoothing);
    }
    const auto cast = [&](const at::Tensor& t) {
      return at::isFloatingType(t.scalar_type()) && t.scalar_type() != at::kDouble
                 ? t.to(at::kFloat)
                 : t;
    };
    return at::cross_entropy_loss_symint(
        cast(self), cast(target), weight ? std::optional<at::Tensor>(cast(*weight)) : std::nullopt,
        reduction, std::move(ignore_index), label_smoothing);
  }
  if (!dtype) dtype = loss_type(self, target, weight);
  if (self.dim() > 1) {
    return std::get<0>(ops::forward(self, target, weight, reduction, std::move(ignore_index),
                                    label_smoothing, *dtype));
  }
  const at::Tensor row_target =
      target.dim() == 1 && !is_probabilities(self, target) ? target : target.unsqueeze(0);
  const at::Tensor loss =
      std::get<0>(ops::forward(self.unsqueeze(0), row_target, weight, reduction,
                               std::move(ignore_index), label_smoothing, *dtype));
  return reduction == 0 && (target.dim() == 0 || is_probabilities(self, target)) ? loss.squeeze(0)
                                                                                 : loss;
}

TORCH_LIBRARY_IMPL(fused_ce, CompositeImplicitAutograd, m) {
  m.impl("cross_entropy", cross_entropy);
}

}  // namespace fused_ce
