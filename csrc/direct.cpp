#include "direct.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <ATen/record_function.h>
#include <c10/core/DispatchKeySet.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include "device.h"
#include "nodes.h"

namespace fused_ce {
namespace {

using c10::DispatchKey;

// What the dispatcher would look at, of some tensors and of this thread.
class Keys {
 public:
  void add(const at::Tensor& tensor) {
    if (!tensor.defined()) return;
    keys_ = keys_ | tensor.key_set();
    tangents_ |= tensor._fw_grad(/*level=*/0).defined();
  }

  // Whether a call would end in the kernels of one device, with nothing but autograd before them.
  bool plain() const {
    constexpr c10::DispatchKeySet kCpu({DispatchKey::CPU, DispatchKey::AutogradCPU,
                                        DispatchKey::ADInplaceOrView, DispatchKey::BackendSelect});
    constexpr c10::DispatchKeySet kCuda({DispatchKey::CUDA, DispatchKey::AutogradCUDA,
                                         DispatchKey::ADInplaceOrView, DispatchKey::BackendSelect});
    const uint64_t keys = active().raw_repr();
    return ((keys & ~kCpu.raw_repr()) == 0 || (keys & ~kCuda.raw_repr()) == 0) &&
           keys_.has_any(c10::DispatchKeySet({DispatchKey::CPU, DispatchKey::CUDA})) &&
           !tangents_ && !at::hasCallbacks();
  }

  // Whether autograd is below what this thread has switched off.
  bool autograd() const {
    return at::GradMode::is_enabled() &&
           active().has_any(
               c10::DispatchKeySet({DispatchKey::AutogradCPU, DispatchKey::AutogradCUDA}));
  }

 private:
  c10::DispatchKeySet keys_;
  bool tangents_ = false;

  c10::DispatchKeySet active() const {
    const auto local = c10::impl::tls_local_dispatch_key_set();
    return (keys_ | local.included_) - local.excluded_;
  }
};

}  // namespace

std::optional<at::Tensor> direct(const Call& call) {
  if (!call.self.defined() || !call.target.defined()) return std::nullopt;
  Keys keys;
  keys.add(call.self), keys.add(call.target), keys.add(call.weight);
  if (!keys.plain()) return std::nullopt;
  const bool grad = keys.autograd();
  if (grad &&
      (call.target.requires_grad() || (call.weight.defined() && call.weight.requires_grad())))
    return std::nullopt;
  const bool record = grad && call.self.requires_grad();
  const ops::ForwardResult result = [&] {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return device::direct_forward(call, std::nullopt, /*save=*/record);
  }();
  if (record) record_forward(result, call);
  return result.loss;
}

at::Tensor direct_or_dispatched(const Call& call) {
  std::optional<at::Tensor> loss = direct(call);
  return loss ? *std::move(loss) : ops::cross_entropy(call);
}

at::Tensor direct_backward(const at::Tensor& grad_output, const Call& call, const at::Tensor& saved,
                           const at::Tensor& total_weight) {
  Keys keys;
  keys.add(grad_output), keys.add(call.self), keys.add(call.target), keys.add(call.weight);
  keys.add(saved), keys.add(total_weight);
  if (!keys.plain() || keys.autograd()) {
    return ops::backward(
        grad_output, call, saved,
        total_weight.defined() ? total_weight : device::nothing(call.self, at::kDouble));
  }
  return device::backward(grad_output, call, saved, total_weight);
}

}  // namespace fused_ce
