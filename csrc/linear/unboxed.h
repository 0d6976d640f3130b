// SPDX-License-Identifier: BSD-3-Clause
// Between the dispatcher's lists of arguments and our structs, as ../unboxed.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>
#include <utility>

#include "../unboxed.h"
#include "ops.h"

namespace fused_ce::linear {

using LayerTuple = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
using ResultTuple = decltype(std::tuple_cat(ForwardTuple(), LayerTuple()));

inline LinearOptions options_of(auto&&... fields) {
  LinearOptions options;
  options.fields() = std::tuple(std::move(fields)...);
  return options;
}

inline c10::SymInt rows_or_chosen(const std::optional<c10::SymInt>& chunk_rows) {
  if (!chunk_rows) return 0;
  TORCH_CHECK_VALUE(*chunk_rows > 0, "chunk_rows must be positive, got ", *chunk_rows);
  return *chunk_rows;
}

template <class Loss, class Logit, class Output, class All>
struct UnboxedOf;

template <class... Loss, class... Logit, class... Outputs, class... All>
struct UnboxedOf<std::tuple<Loss&...>, std::tuple<Logit&...>, std::tuple<Outputs&...>,
                 std::tuple<All&...>> {
  template <ops::LossFunction* function>
  static at::Tensor linear_cross_entropy(const at::Tensor& self, const at::Tensor& linear_weight,
                                         const at::Tensor& target,
                                         const OptionalTensor& linear_bias,
                                         const OptionalTensor& weight, Loss... loss,
                                         std::optional<c10::SymInt> chunk_rows) {
    LinearOptions options;
    options.loss_fields() = std::tuple(std::move(loss)...);
    options.chunk_rows = rows_or_chosen(chunk_rows);
    const Layer layer{self, linear_weight, tensor_or_undefined(linear_bias)};
    return function({layer, target, tensor_or_undefined(weight), options});
  }

  template <ops::StatsFunction* function>
  static StatsTuple linear_cross_entropy_stats(
      const at::Tensor& self, const at::Tensor& linear_weight, const at::Tensor& target,
      const OptionalTensor& linear_bias, const OptionalTensor& weight, Loss... loss,
      const OptionalTensor& row_weight, const OptionalTensor& normalizer,
      std::optional<at::ScalarType> dtype, Logit... logit, Outputs... outputs,
      std::optional<c10::SymInt> chunk_rows) {
    const LinearOptions options = options_of(std::move(loss)..., std::move(logit)...,
                                             std::move(outputs)..., rows_or_chosen(chunk_rows));
    const Layer layer{self, linear_weight, tensor_or_undefined(linear_bias)};
    return stats_tuple(function({layer, target, tensor_or_undefined(weight), options,
                                 tensor_or_undefined(row_weight), tensor_or_undefined(normalizer)},
                                dtype));
  }

  template <ops::ForwardFunction* function>
  static ResultTuple forward(const at::Tensor& self, const at::Tensor& linear_weight,
                             const OptionalTensor& linear_bias, const at::Tensor& target,
                             const OptionalTensor& weight, const OptionalTensor& row_weight,
                             const OptionalTensor& normalizer, std::optional<at::ScalarType> dtype,
                             bool save, bool needs_input, bool needs_weight, bool needs_bias,
                             All... all) {
    const LinearOptions options = options_of(std::move(all)...);
    const Layer layer{self, linear_weight, tensor_or_undefined(linear_bias)};
    ops::LinearResult r =
        function({layer, target, tensor_or_undefined(weight), options,
                  tensor_or_undefined(row_weight), tensor_or_undefined(normalizer)},
                 dtype, save, {needs_input, needs_weight, needs_bias});
    return std::tuple_cat(forward_tuple(r), layer_tuple(r.gradients));
  }

  template <ops::BackwardFunction* function>
  static LayerTuple backward(const OptionalTensor& grad_loss, const OptionalTensor& grad_z_loss,
                             const OptionalTensor& grad_lse, const OptionalTensor& grad_entropy,
                             const at::Tensor& self, const at::Tensor& linear_weight,
                             const OptionalTensor& linear_bias, const at::Tensor& target,
                             const OptionalTensor& weight, const OptionalTensor& row_weight,
                             const at::Tensor& saved, const at::Tensor& total_weight,
                             bool needs_input, bool needs_weight, bool needs_bias, All... all) {
    const LinearOptions options = options_of(std::move(all)...);
    const Layer layer{self, linear_weight, tensor_or_undefined(linear_bias)};
    const ops::Gradients grads{tensor_or_undefined(grad_loss), tensor_or_undefined(grad_z_loss),
                               tensor_or_undefined(grad_lse), tensor_or_undefined(grad_entropy)};
    return layer_tuple(function(
        grads,
        {layer, target, tensor_or_undefined(weight), options, tensor_or_undefined(row_weight)},
        saved, total_weight, {needs_input, needs_weight, needs_bias}));
  }

 private:
  static LayerTuple layer_tuple(Layer layer) {
    return {std::move(layer.input), std::move(layer.weight), std::move(layer.bias)};
  }
};

using Unboxed = UnboxedOf<decltype(std::declval<Options&>().loss_fields()),
                          decltype(Options::logit_fields_of(std::declval<Options&>())),
                          decltype(Options::output_fields_of(std::declval<Options&>())),
                          decltype(std::declval<LinearOptions&>().fields())>;

}  // namespace fused_ce::linear
