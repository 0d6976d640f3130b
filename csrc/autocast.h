// Autocast: the loss is float, as torch's is, but half logits are not copied to float for it: the
// kernels accumulate in float anyway. Registered once for each kind of device.
#pragma once

#include <c10/core/DispatchKey.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <utility>

#include "arguments.h"
#include "composite.h"

namespace fused_ce::autocast {

// The dtype torch's autocast gives an operator of its float32 list: half becomes float, double
// stays.
inline at::Tensor cast(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kHalf || tensor.scalar_type() == at::kBFloat16
             ? tensor.to(at::kFloat)
             : tensor;
}

template <c10::DispatchKey key>
at::Tensor cross_entropy(const at::Tensor& self, const at::Tensor& target,
                         const std::optional<at::Tensor>& weight, int64_t reduction,
                         c10::SymInt ignore_index, double label_smoothing) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
  const bool half = self.scalar_type() == at::kHalf || self.scalar_type() == at::kBFloat16;
  const std::optional<at::Tensor> cast_weight =
      weight ? std::optional<at::Tensor>(cast(*weight)) : std::nullopt;  // C numbers
  if (!half) {
    return composite(self, target, cast_weight, reduction, std::move(ignore_index), label_smoothing,
                     std::nullopt);
  }
  at::ScalarType dtype = at::kFloat;
  if (is_probabilities(self, target) && at::isFloatingType(target.scalar_type())) {
    dtype = c10::promoteTypes(dtype, target.scalar_type());
    if (weight) dtype = c10::promoteTypes(dtype, weight->scalar_type());
  } else {
    TORCH_CHECK(!cast_weight || cast_weight->scalar_type() == at::kFloat,
                "expected scalar type Float but found ", cast_weight->scalar_type(),
                " (weight, under autocast)");
  }
  return composite(self, target, cast_weight, reduction, std::move(ignore_index), label_smoothing,
                   dtype);
}

}  // namespace fused_ce::autocast
