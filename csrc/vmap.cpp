// torch.vmap: the mapped dimension becomes part of the batch, and the kernels see one problem.
#include <ATen/TensorOperators.h>
#include <ATen/core/Reduction.h>
#include <ATen/functorch/BatchedTensorImpl.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/stack.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/library.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "arguments.h"
#include "ops.h"

namespace fused_ce {
namespace {

// A tensor and the dimension along which one vmap maps it, the innermost that maps any argument.
struct Mapped {
  at::Tensor tensor;  // of all samples; without a dimension, shared by them
  std::optional<int64_t> dim;

  c10::SymInt samples() const { return tensor.sym_size(*dim); }
  at::Tensor sample(int64_t i) const { return dim ? tensor.select(*dim, i) : tensor; }
  // (B, ...). A view where all share the tensor.
  at::Tensor all(const c10::SymInt& samples) const {
    if (dim) return tensor.movedim(*dim, 0);
    c10::SymDimVector shape(tensor.sym_sizes().begin(), tensor.sym_sizes().end());
    shape.insert(shape.begin(), samples);
    return tensor.expand_symint(shape);
  }
};

// From 1, or 0 where no vmap maps it.
int64_t level_of(const at::Tensor& tensor) {
  const auto* batched = at::functorch::maybeGetBatchedImpl(tensor);
  return batched == nullptr ? 0 : batched->level();
}

Mapped unwrap(const at::Tensor& tensor, int64_t level) {
  if (level_of(tensor) != level) return {tensor, std::nullopt};
  const auto* batched = at::functorch::maybeGetBatchedImpl(tensor);
  return {batched->value(), batched->bdim()};
}

// What each row counts in a mean.
at::Tensor weight_of_rows(const at::Tensor& losses, const at::Tensor& target, bool probabilities,
                          const std::optional<at::Tensor>& weight,
                          const c10::SymInt& ignore_index) {
  if (probabilities) return at::ones_like(losses);
  const at::Tensor index = target.to(at::kLong);
  const at::Tensor ignored = index.eq(at::Scalar(ignore_index));
  if (!weight) return ignored.logical_not();
  return weight->take(index.masked_fill(ignored, 0)).masked_fill(ignored, 0);
}

// The losses of all samples, whose logits and targets are (B, N, ...), or (B, ...) where a sample
// is one row. shape: of a sample's losses.
at::Tensor folded(const at::Tensor& self, const at::Tensor& target,
                  const std::optional<at::Tensor>& weight, int64_t reduction,
                  const c10::SymInt& ignore_index, double label_smoothing, bool probabilities,
                  c10::SymDimVector shape) {
  const at::Tensor x = self.dim() > 2 ? self.flatten(0, 1) : self;
  const at::Tensor y = target.dim() > (probabilities ? 2 : 1) ? target.flatten(0, 1) : target;
  const at::Tensor losses =
      ops::cross_entropy(x, y, weight, at::Reduction::None, ignore_index, label_smoothing);
  shape.insert(shape.begin(), self.sym_size(0));
  if (reduction == at::Reduction::None) return losses.reshape_symint(shape);
  shape.push_back(1);  // where a sample has but one loss
  const auto total = [&](const at::Tensor& of_rows) {
    return of_rows.reshape_symint(shape).flatten(1).sum(1, /*keepdim=*/false, at::kDouble);
  };
  at::Tensor loss = total(losses);
  if (reduction == at::Reduction::Mean)
    loss = loss / total(weight_of_rows(losses, y, probabilities, weight, ignore_index));
  return loss.to(losses.scalar_type());
}

at::Tensor cross_entropy(const at::Tensor& self, const at::Tensor& target,
                         const std::optional<at::Tensor>& weight, int64_t reduction,
                         c10::SymInt ignore_index, double label_smoothing) {
  check_arguments(self, target, weight, reduction, ignore_index, label_smoothing,
                  /*same_weight_dtype=*/false);
  const bool probabilities = is_probabilities(self, target);
  const c10::SymIntArrayRef sizes = (probabilities ? self : target).sym_sizes();
  c10::SymDimVector shape(sizes.begin(), sizes.end());
  if (probabilities) shape.erase(shape.begin() + (self.dim() > 1 ? 1 : 0));
  const bool empty = self.sym_numel() == 0;

  const int64_t level =
      std::max({level_of(self), level_of(target), weight ? level_of(*weight) : 0});
  const Mapped x = unwrap(self, level), y = unwrap(target, level);
  const Mapped w = weight ? unwrap(*weight, level) : Mapped{};
  const c10::impl::ExcludeDispatchKeyGuard below(c10::DispatchKey::FuncTorchBatched);
  at::Tensor loss;
  if (x.dim && !w.dim && !empty) {
    loss = folded(x.all(x.samples()), y.all(x.samples()), weight, reduction, ignore_index,
                  label_smoothing, probabilities, std::move(shape));
  } else {
    // Logits that all samples share would be copied for each, and the kernels have one weight for
    // each class: one by one.
    const Mapped& any = x.dim ? x : y.dim ? y : w;
    std::vector<at::Tensor> losses(any.samples().guard_int(__FILE__, __LINE__));
    for (size_t i = 0; i < losses.size(); ++i) {
      const auto n = static_cast<int64_t>(i);
      losses[i] = ops::cross_entropy(x.sample(n), y.sample(n),
                                     weight ? std::optional<at::Tensor>(w.sample(n)) : std::nullopt,
                                     reduction, ignore_index, label_smoothing);
    }
    loss = at::stack(losses);
  }
  return at::functorch::makeBatched(loss, 0, level);
}

}  // namespace

TORCH_LIBRARY_IMPL(fused_ce, FuncTorchBatched, m) { m.impl("cross_entropy", cross_entropy); }

}  // namespace fused_ce
