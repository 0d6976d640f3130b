// SPDX-License-Identifier: BSD-3-Clause
// Between the dispatcher's lists of arguments and our structs, as ../unboxed.h.
#pragma once

#include <ATen/core/List.h>

#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "../linear/unboxed.h"
#include "../unboxed.h"
#include "composite.h"
#include "linear_slices.h"
#include "slices.h"

namespace fused_ce::parallel {

template <class Loss, class Logit, class Output, class Slice>
struct UnboxedOf;

template <class... Loss, class... Logit, class... Outputs, class... Slice>
struct UnboxedOf<std::tuple<Loss&...>, std::tuple<Logit&...>, std::tuple<Outputs&...>,
                 std::tuple<Slice&...>> {
  template <StatsFunction* function>
  static StatsTuple cross_entropy_stats(const at::Tensor& self, const at::Tensor& target,
                                        const OptionalTensor& weight, Loss... loss,
                                        const OptionalTensor& row_weight,
                                        const OptionalTensor& normalizer,
                                        std::optional<at::ScalarType> dtype, Logit... logit,
                                        Outputs... outputs, int64_t first_class, int64_t classes,
                                        int64_t group_size, std::string group_name, int64_t call_id,
                                        std::optional<c10::List<std::string>> row_groups) {
    ParallelOptions o;
    o.fields() =
        std::tuple(std::move(loss)..., std::move(logit)..., std::move(outputs)..., first_class,
                   classes, group_size, std::move(group_name), call_id, c10::SymInt(0));
    return stats_tuple(function(
        {self, target, tensor_or_undefined(weight), o},
        {tensor_or_undefined(row_weight), tensor_or_undefined(normalizer), names_of(row_groups)},
        dtype));
  }

  template <LinearStatsFunction* function>
  static StatsTuple linear_cross_entropy_stats(
      const at::Tensor& self, const at::Tensor& linear_weight, const at::Tensor& target,
      const OptionalTensor& linear_bias, const OptionalTensor& weight, Loss... loss,
      const OptionalTensor& row_weight, const OptionalTensor& normalizer,
      std::optional<at::ScalarType> dtype, Logit... logit, Outputs... outputs,
      std::optional<c10::SymInt> chunk_rows, int64_t first_class, int64_t classes,
      int64_t group_size, std::string group_name, int64_t call_id,
      std::optional<c10::List<std::string>> row_groups) {
    ParallelOptions o;
    o.fields() = std::tuple(std::move(loss)..., std::move(logit)..., std::move(outputs)...,
                            first_class, classes, group_size, std::move(group_name), call_id,
                            linear::rows_or_chosen(chunk_rows));
    const linear::Layer layer{self, linear_weight, tensor_or_undefined(linear_bias)};
    return stats_tuple(function(
        {layer, target, tensor_or_undefined(weight), o},
        {tensor_or_undefined(row_weight), tensor_or_undefined(normalizer), names_of(row_groups)},
        dtype));
  }

  template <LinearSumsFunction* function>
  static at::Tensor slice_linear_sums(const at::Tensor& self, const at::Tensor& linear_weight,
                                      const OptionalTensor& linear_bias, const at::Tensor& target,
                                      const OptionalTensor& weight,
                                      const OptionalTensor& weight_sum, Slice... fields,
                                      c10::SymInt chunk_rows) {
    ParallelOptions o = options_of(std::move(fields)...);
    o.chunk_rows = std::move(chunk_rows);
    const linear::Layer layer{self, linear_weight, tensor_or_undefined(linear_bias)};
    return function({layer, target, tensor_or_undefined(weight), o},
                    tensor_or_undefined(weight_sum));
  }

  template <LinearGradientFunction* function>
  static linear::LayerTuple slice_linear_backward(
      const OptionalTensor& grad_loss, const OptionalTensor& grad_lse,
      const OptionalTensor& grad_entropy, const at::Tensor& self, const at::Tensor& linear_weight,
      const OptionalTensor& linear_bias, const at::Tensor& target, const OptionalTensor& weight,
      const OptionalTensor& target_weight, const OptionalTensor& weight_sum,
      const at::Tensor& saved, bool needs_input, bool needs_weight, bool needs_bias,
      Slice... fields, c10::SymInt chunk_rows) {
    ParallelOptions o = options_of(std::move(fields)...);
    o.chunk_rows = std::move(chunk_rows);
    const linear::Layer layer{self, linear_weight, tensor_or_undefined(linear_bias)};
    const ops::Gradients grads{tensor_or_undefined(grad_loss), undefined(),
                               tensor_or_undefined(grad_lse), tensor_or_undefined(grad_entropy)};
    linear::Layer r =
        function(grads, {layer, target, tensor_or_undefined(weight), o},
                 {tensor_or_undefined(target_weight), tensor_or_undefined(weight_sum)}, saved,
                 {needs_input, needs_weight, needs_bias});
    return {std::move(r.input), std::move(r.weight), std::move(r.bias)};
  }

  template <SumsFunction* function>
  static at::Tensor slice_sums(const at::Tensor& self, const at::Tensor& target,
                               const OptionalTensor& weight, const OptionalTensor& weight_sum,
                               Slice... fields) {
    const ParallelOptions o = options_of(std::move(fields)...);
    return function({self, target, tensor_or_undefined(weight), o},
                    tensor_or_undefined(weight_sum));
  }

  template <GradientFunction* function>
  static at::Tensor slice_backward(const OptionalTensor& grad_loss, const OptionalTensor& grad_lse,
                                   const OptionalTensor& grad_entropy, const at::Tensor& self,
                                   const at::Tensor& target, const OptionalTensor& weight,
                                   const OptionalTensor& target_weight,
                                   const OptionalTensor& weight_sum, const at::Tensor& saved,
                                   Slice... fields) {
    const ParallelOptions o = options_of(std::move(fields)...);
    const ops::Gradients grads{tensor_or_undefined(grad_loss), undefined(),
                               tensor_or_undefined(grad_lse), tensor_or_undefined(grad_entropy)};
    return function(grads, {self, target, tensor_or_undefined(weight), o},
                    {tensor_or_undefined(target_weight), tensor_or_undefined(weight_sum)}, saved);
  }

 private:
  static std::vector<std::string> names_of(const std::optional<c10::List<std::string>>& names) {
    return names ? names->vec() : std::vector<std::string>();
  }
  static ParallelOptions options_of(Slice... fields) {
    ParallelOptions o;
    o.slice_fields() = std::tuple(std::move(fields)...);
    return o;
  }
};

using Unboxed = UnboxedOf<decltype(std::declval<Options&>().loss_fields()),
                          decltype(Options::logit_fields_of(std::declval<Options&>())),
                          decltype(Options::output_fields_of(std::declval<Options&>())),
                          decltype(std::declval<ParallelOptions&>().slice_fields())>;

}  // namespace fused_ce::parallel
