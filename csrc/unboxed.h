// SPDX-License-Identifier: BSD-3-Clause
// Between the dispatcher's lists of arguments and our structs: the one place where an operator's
// options are a list.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>

#include "ops.h"

namespace fused_ce {

using OptionalTensor = std::optional<at::Tensor>;

// A tensor that an optional argument holds, or an undefined one.
inline const at::Tensor& tensor_or_undefined(const OptionalTensor& tensor) {
  return tensor ? *tensor : undefined();
}
inline OptionalTensor optional_if_defined(const at::Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}

using StatsTuple =
    std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
using PredictTuple = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
using ForwardTuple = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor,
                                at::Tensor, at::Tensor, at::Tensor>;

inline StatsTuple stats_tuple(ops::ForwardResult r) {
  return {std::move(r.loss),    std::move(r.z_loss),     std::move(r.lse),
          std::move(r.entropy), std::move(r.prediction), std::move(r.confidence)};
}
inline ForwardTuple forward_tuple(ops::ForwardResult r) {
  return std::tuple_cat(stats_tuple(r), std::tuple(std::move(r.saved), std::move(r.total_weight)));
}

template <class LossFields, class HeadFields>
struct UnboxedOf;

// Functions of exactly the schemas' arguments (library.cpp), around one of ours.
template <class... Loss, class... Head>
struct UnboxedOf<std::tuple<Loss&...>, std::tuple<Head&...>> {
  template <ops::CrossEntropyFunction* function>
  static at::Tensor cross_entropy(const at::Tensor& self, const at::Tensor& target,
                                  const OptionalTensor& weight, Loss... loss) {
    const Options o{std::move(loss)...};
    return function({self, target, tensor_or_undefined(weight), o});
  }

  template <ops::StatsFunction* function>
  static StatsTuple cross_entropy_stats(const at::Tensor& self, const at::Tensor& target,
                                        const OptionalTensor& weight, Loss... loss,
                                        const OptionalTensor& row_weight,
                                        const OptionalTensor& normalizer,
                                        std::optional<at::ScalarType> dtype, Head... head) {
    const Options o{std::move(loss)..., std::move(head)...};
    return stats_tuple(function({self, target, tensor_or_undefined(weight), o,
                                 tensor_or_undefined(row_weight), tensor_or_undefined(normalizer)},
                                dtype));
  }

  template <ops::PredictFunction* function>
  static PredictTuple predict(const at::Tensor& self, double logit_scale,
                              std::optional<double> softcap, double temperature) {
    Options o;
    o.logit_scale = logit_scale, o.softcap = softcap, o.temperature = temperature;
    ops::ForwardResult r = function(self, o);
    return {std::move(r.prediction), std::move(r.confidence), std::move(r.lse),
            std::move(r.entropy)};
  }

  template <ops::ForwardFunction* function>
  static ForwardTuple forward(const at::Tensor& self, const at::Tensor& target,
                              const OptionalTensor& weight, const OptionalTensor& row_weight,
                              const OptionalTensor& normalizer, std::optional<at::ScalarType> dtype,
                              bool save, Loss... loss, Head... head) {
    const Options o{std::move(loss)..., std::move(head)...};
    return forward_tuple(
        function({self, target, tensor_or_undefined(weight), o, tensor_or_undefined(row_weight),
                  tensor_or_undefined(normalizer)},
                 dtype, save));
  }

  // Of backward, and of backward_.
  template <class Function, Function* function>
  static auto backward(const OptionalTensor& grad_loss, const OptionalTensor& grad_z_loss,
                       const OptionalTensor& grad_lse, const OptionalTensor& grad_entropy,
                       const at::Tensor& self, const at::Tensor& target,
                       const OptionalTensor& weight, const OptionalTensor& row_weight,
                       const at::Tensor& saved, const at::Tensor& total_weight, Loss... loss,
                       Head... head) {
    const Options o{std::move(loss)..., std::move(head)...};
    const ops::Gradients grads{tensor_or_undefined(grad_loss), tensor_or_undefined(grad_z_loss),
                               tensor_or_undefined(grad_lse), tensor_or_undefined(grad_entropy)};
    return function(grads,
                    {self, target, tensor_or_undefined(weight), o, tensor_or_undefined(row_weight)},
                    saved, total_weight);
  }
};

using Unboxed = UnboxedOf<decltype(std::declval<Options&>().loss_fields()),
                          decltype(std::declval<Options&>().head_fields())>;

}  // namespace fused_ce
