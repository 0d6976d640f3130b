// SPDX-License-Identifier: BSD-3-Clause
#include "ops.h"

#include "../operator.h"
#include "unboxed.h"

namespace fused_ce::linear::ops {

ForwardResult linear_cross_entropy_stats(const LinearCall& call,
                                         std::optional<at::ScalarType> dtype,
                                         std::optional<c10::SymInt> chunk_rows) {
  static const auto op = find_operator<decltype(Unboxed::linear_cross_entropy_stats<nullptr>)>(
      "fused_ce::linear_cross_entropy_stats");
  ForwardResult r;
  std::tie(r.loss, r.z_loss, r.lse, r.entropy, r.prediction, r.confidence) = std::apply(
      [&](const auto&... arguments) { return op.call(arguments...); },
      std::tuple_cat(
          std::tie(call.layer.input, call.layer.weight, call.target),
          std::tuple(optional_if_defined(call.layer.bias), optional_if_defined(call.weight)),
          call.options.loss_fields(),
          std::tuple(optional_if_defined(call.row_weight), optional_if_defined(call.normalizer),
                     dtype),
          Options::logit_fields_of(call.options), Options::output_fields_of(call.options),
          std::tuple(std::move(chunk_rows))));
  return r;
}

LinearResult forward(const LinearCall& call, std::optional<at::ScalarType> dtype, bool save,
                     Needs needs) {
  static const auto op =
      find_operator<decltype(Unboxed::forward<nullptr>)>("fused_ce::_linear_forward");
  LinearResult r;
  std::tie(r.loss, r.z_loss, r.lse, r.entropy, r.prediction, r.confidence, r.saved, r.total_weight,
           r.gradients.input, r.gradients.weight, r.gradients.bias) =
      std::apply(
          [&](const auto&... fields) {
            return op.call(call.layer.input, call.layer.weight,
                           optional_if_defined(call.layer.bias), call.target,
                           optional_if_defined(call.weight), optional_if_defined(call.row_weight),
                           optional_if_defined(call.normalizer), dtype, save, needs[0], needs[1],
                           needs[2], fields...);
          },
          call.options.fields());
  return r;
}

Layer backward(const Gradients& grads, const LinearCall& call, const at::Tensor& saved,
               const at::Tensor& total_weight, Needs needs) {
  static const auto op =
      find_operator<decltype(Unboxed::backward<nullptr>)>("fused_ce::_linear_backward");
  Layer result;
  std::tie(result.input, result.weight, result.bias) = std::apply(
      [&](const auto&... fields) {
        return op.call(optional_if_defined(grads.loss), optional_if_defined(grads.z_loss),
                       optional_if_defined(grads.lse), optional_if_defined(grads.entropy),
                       call.layer.input, call.layer.weight, optional_if_defined(call.layer.bias),
                       call.target, optional_if_defined(call.weight),
                       optional_if_defined(call.row_weight), saved, total_weight, needs[0],
                       needs[1], needs[2], fields...);
      },
      call.options.fields());
  // What nobody asked for comes as an empty tensor.
  for (size_t i = 0; i < Layer::kCount; ++i) {
    if (!needs[i]) result.all()[i]->reset();
  }
  return result;
}

}  // namespace fused_ce::linear::ops
