// SPDX-License-Identifier: BSD-3-Clause
#include "ops.h"

#include "operator.h"
#include "unboxed.h"

namespace fused_ce::ops {
namespace {

// op.call(arguments..., options...)
template <class Op, class... Arguments>
auto call_with(const Options& options, const Op& op, const Arguments&... arguments) {
  return std::apply([&](const auto&... fields) { return op.call(arguments..., fields...); },
                    options.fields());
}

template <class Op>
auto call_backward(const Op& op, const Gradients& grads, const Call& call, const at::Tensor& saved,
                   const at::Tensor& total_weight) {
  return call_with(
      call.options, op, optional_if_defined(grads.loss), optional_if_defined(grads.z_loss),
      optional_if_defined(grads.lse), optional_if_defined(grads.entropy), call.self, call.target,
      optional_if_defined(call.weight), optional_if_defined(call.row_weight), saved, total_weight);
}

}  // namespace

at::Tensor cross_entropy(const Call& call) {
  static const auto op =
      find_operator<decltype(Unboxed::cross_entropy<nullptr>)>("fused_ce::cross_entropy");
  const auto& [reduction, ignore_index, label_smoothing] = call.options.loss_fields();
  return op.call(call.self, call.target, optional_if_defined(call.weight), reduction, ignore_index,
                 label_smoothing);
}

ForwardResult cross_entropy_stats(const Call& call, std::optional<at::ScalarType> dtype) {
  static const auto op = find_operator<decltype(Unboxed::cross_entropy_stats<nullptr>)>(
      "fused_ce::cross_entropy_stats");
  ForwardResult r;
  // The tensors and the dtype stand between the options.
  std::tie(r.loss, r.z_loss, r.lse, r.entropy, r.prediction, r.confidence) = std::apply(
      [&](const auto&... arguments) { return op.call(arguments...); },
      std::tuple_cat(std::tuple(call.self, call.target, optional_if_defined(call.weight)),
                     call.options.loss_fields(),
                     std::tuple(optional_if_defined(call.row_weight),
                                optional_if_defined(call.normalizer), dtype),
                     call.options.head_fields()));
  return r;
}

ForwardResult predict(const at::Tensor& self, const Options& options) {
  static const auto op = find_operator<decltype(Unboxed::predict<nullptr>)>("fused_ce::predict");
  ForwardResult r;
  std::tie(r.prediction, r.confidence, r.lse, r.entropy) =
      op.call(self, options.logit_scale, options.softcap, options.temperature);
  return r;
}

ForwardResult forward(const Call& call, std::optional<at::ScalarType> dtype, bool save) {
  static const auto op = find_operator<decltype(Unboxed::forward<nullptr>)>("fused_ce::_forward");
  ForwardResult r;
  std::tie(r.loss, r.z_loss, r.lse, r.entropy, r.prediction, r.confidence, r.saved,
           r.total_weight) =
      call_with(call.options, op, call.self, call.target, optional_if_defined(call.weight),
                optional_if_defined(call.row_weight), optional_if_defined(call.normalizer), dtype,
                save);
  return r;
}

at::Tensor backward(const Gradients& grads, const Call& call, const at::Tensor& saved,
                    const at::Tensor& total_weight) {
  static const auto op =
      find_operator<decltype(Unboxed::backward<BackwardFunction, nullptr>)>("fused_ce::_backward");
  return call_backward(op, grads, call, saved, total_weight);
}

void backward_(const Gradients& grads, const Call& call, const at::Tensor& saved,
               const at::Tensor& total_weight) {
  static const auto op =
      find_operator<decltype(Unboxed::backward<InPlaceFunction, nullptr>)>("fused_ce::_backward_");
  call_backward(op, grads, call, saved, total_weight);
}

}  // namespace fused_ce::ops
