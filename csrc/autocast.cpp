#include "autocast.h"

#include <ATen/autocast_mode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include "arguments.h"
#include "composite.h"

namespace fused_ce::autocast {
namespace {

// The dtype torch's autocast gives an operator of its float32 list: half becomes float, double
// stays.
at::ScalarType wide(at::ScalarType type) {
  return type == at::kHalf || type == at::kBFloat16 ? at::kFloat : type;
}

}  // namespace

bool is_enabled(const Call& call) {
  if (!call.self.defined()) return false;
  const c10::DeviceType device = call.self.device().type();
  return at::autocast::is_autocast_available(device) && at::autocast::is_autocast_enabled(device);
}

at::Tensor cross_entropy(const Call& call) {
  if (!call.self.defined() || !call.target.defined())
    return composite::dispatched(call, std::nullopt);  // says what is wrong
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(
      at::autocast::get_autocast_dispatch_key_from_device_type(call.self.device().type()));
  // C numbers, which the kernels would copy to float as well
  const at::Tensor weight =
      call.weight.defined() ? call.weight.to(wide(call.weight.scalar_type())) : at::Tensor();
  const Call wide_call{call.self, call.target, weight, call.options};
  const at::ScalarType type = wide(call.self.scalar_type());
  if (type == call.self.scalar_type()) return ops::cross_entropy(wide_call);
  return composite::dispatched(wide_call, loss_type(type, wide_call));
}

}  // namespace fused_ce::autocast
