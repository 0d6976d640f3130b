// SPDX-License-Identifier: BSD-3-Clause
#include "direct.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <ATen/record_function.h>
#include <c10/core/DispatchKeySet.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include "device.h"
#include "nodes.h"
#include "tangent.h"

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
  bool plain() const { return dense() && !at::hasCallbacks(); }

  // The same where somebody may watch.
  bool dense() const {
    constexpr c10::DispatchKeySet kCpu({DispatchKey::CPU, DispatchKey::AutogradCPU,
                                        DispatchKey::ADInplaceOrView, DispatchKey::BackendSelect});
    constexpr c10::DispatchKeySet kCuda({DispatchKey::CUDA, DispatchKey::AutogradCUDA,
                                         DispatchKey::ADInplaceOrView, DispatchKey::BackendSelect});
    const uint64_t keys = active().raw_repr();
    return ((keys & ~kCpu.raw_repr()) == 0 || (keys & ~kCuda.raw_repr()) == 0) &&
           keys_.has_any(c10::DispatchKeySet({DispatchKey::CPU, DispatchKey::CUDA})) && !tangents_;
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

// Of backward.
Keys keys_of(const ops::Gradients& grads, const Call& call, const at::Tensor& saved,
             const at::Tensor& total_weight) {
  Keys keys;
  for (const at::Tensor* grad : grads.all()) keys.add(*grad);
  keys.add(call.self), keys.add(call.target), keys.add(call.weight), keys.add(call.row_weight);
  keys.add(saved), keys.add(total_weight);
  return keys;
}

// What a mean divides by, as the dispatcher takes it.
at::Tensor defined(const at::Tensor& total_weight, const Call& call) {
  return total_weight.defined() ? total_weight : device::nothing(call.self, at::kDouble);
}

}  // namespace

bool direct(const Call& call, std::optional<at::ScalarType> dtype, ops::ForwardResult& result) {
  if (!call.self.defined() || !call.target.defined()) return false;
  Keys keys;
  keys.add(call.self), keys.add(call.target), keys.add(call.weight);
  keys.add(call.row_weight), keys.add(call.normalizer);
  if (!keys.plain()) return false;
  const bool grad = keys.autograd();
  if (grad && (call.target.requires_grad() || requires_grad(call.weight) ||
               requires_grad(call.row_weight) || requires_grad(call.normalizer)))
    return false;
  const bool record = grad && call.self.requires_grad();
  {
    const at::AutoDispatchBelowADInplaceOrView guard;
    device::direct_forward(call, dtype, /*save=*/record, result);
  }
  if (record) record_forward(result, call);
  return true;
}

bool is_plain(const at::Tensor& tensor) {
  Keys keys;
  keys.add(tensor);
  return keys.dense();
}

at::Tensor direct_or_dispatched(const Call& call) {
  ops::ForwardResult result;
  return direct(call, std::nullopt, result) ? std::move(result.loss) : ops::cross_entropy(call);
}

ops::ForwardResult direct_or_dispatched_stats(const Call& call,
                                              std::optional<at::ScalarType> dtype) {
  ops::ForwardResult result;
  if (!direct(call, dtype, result)) result = ops::cross_entropy_stats(call, dtype);
  return result;
}

at::Tensor direct_backward(const ops::Gradients& grads, const Call& call, const at::Tensor& saved,
                           const at::Tensor& total_weight) {
  const Keys keys = keys_of(grads, call, saved, total_weight);
  if (!keys.plain() || keys.autograd())
    return ops::backward(grads, call, saved, defined(total_weight, call));
  return device::backward(grads, call, saved, total_weight);
}

void direct_backward_(const ops::Gradients& grads, const Call& call, const at::Tensor& saved,
                      const at::Tensor& total_weight) {
  const Keys keys = keys_of(grads, call, saved, total_weight);
  if (!keys.plain() || keys.autograd())
    return ops::backward_(grads, call, saved, defined(total_weight, call));
  device::backward_(grads, call, saved, total_weight);
  call.self.unsafeGetTensorImpl()->bump_version();
}

}  // namespace fused_ce
