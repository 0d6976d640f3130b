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

// A tensor that an optional argument holds, or an undefined one.
inline const at::Tensor& tensor_or_undefined(const std::optional<at::Tensor>& tensor) {
  static const at::Tensor kUndefined;
  return tensor ? *tensor : kUndefined;
}
inline std::optional<at::Tensor> optional_if_defined(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional<at::Tensor>(tensor) : std::nullopt;
}

using OptionalTensor = std::optional<at::Tensor>;
using ForwardTuple = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

template <class Fields>
struct UnboxedOf;

// Functions of exactly the schemas' arguments (library.cpp), around one of ours.
template <class... Option>
struct UnboxedOf<std::tuple<Option&...>> {
  template <ops::CrossEntropyFunction* function>
  static at::Tensor cross_entropy(const at::Tensor& self, const at::Tensor& target,
                                  const OptionalTensor& weight, Option... options) {
    const Options o{std::move(options)...};
    return function({self, target, tensor_or_undefined(weight), o});
  }

  template <ops::ForwardFunction* function>
  static ForwardTuple forward(const at::Tensor& self, const at::Tensor& target,
                              const OptionalTensor& weight, std::optional<at::ScalarType> dtype,
                              bool save, Option... options) {
    const Options o{std::move(options)...};
    auto [loss, saved, total_weight] =
        function({self, target, tensor_or_undefined(weight), o}, dtype, save);
    return {std::move(loss), std::move(saved), std::move(total_weight)};
  }

  template <ops::BackwardFunction* function>
  static at::Tensor backward(const at::Tensor& grad_output, const at::Tensor& self,
                             const at::Tensor& target, const OptionalTensor& weight,
                             const at::Tensor& saved, const at::Tensor& total_weight,
                             Option... options) {
    const Options o{std::move(options)...};
    return function(grad_output, {self, target, tensor_or_undefined(weight), o}, saved,
                    total_weight);
  }
};

using Unboxed = UnboxedOf<decltype(std::declval<Options&>().fields())>;

}  // namespace fused_ce
