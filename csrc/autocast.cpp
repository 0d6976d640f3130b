// SPDX-License-Identifier: BSD-3-Clause
#include "autocast.h"

#include <ATen/autocast_mode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include "arguments.h"
#include "composite.h"

namespace fused_ce::autocast {

at::ScalarType wide(at::ScalarType type) {
  return type == at::kHalf || type == at::kBFloat16 ? at::kFloat : type;
}

bool is_enabled(const at::Tensor& self) {
  if (!self.defined()) return false;
  const c10::DeviceType device = self.device().type();
  return at::autocast::is_autocast_available(device) && at::autocast::is_autocast_enabled(device);
}

at::Tensor cross_entropy(const Call& call) { return cross_entropy_stats(call, std::nullopt).loss; }

ops::ForwardResult cross_entropy_stats(const Call& call, std::optional<at::ScalarType> dtype) {
  const at::Tensor &self = call.self, &weight = call.weight;
  if (!self.defined() || !call.target.defined())
    return composite::dispatched(call, dtype);  // says what is wrong
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(
      at::autocast::get_autocast_dispatch_key_from_device_type(self.device().type()));
  // C numbers, which the kernels would copy to float as well
  const at::Tensor weights = weight.defined() ? weight.to(wide(weight.scalar_type())) : weight;
  const Call wide_call{self, call.target, weights, call.options, call.row_weight, call.normalizer};
  const at::ScalarType type = wide(self.scalar_type());
  if (!dtype && type != self.scalar_type()) dtype = loss_type(type, wide_call);
  return composite::dispatched(wide_call, dtype);
}

}  // namespace fused_ce::autocast
