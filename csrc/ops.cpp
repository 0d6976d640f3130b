#include "ops.h"

#include <ATen/core/dispatch/Dispatcher.h>

#include "unboxed.h"

namespace fused_ce::ops {
namespace {

// Looked up once each: a lookup by name costs more than a small loss. The handles outlive every
// call, for the registrations live in this library.
template <class Function>
auto find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Function>();
}

// op.call(arguments..., options...)
template <class Op, class... Arguments>
auto call_with(const Options& options, const Op& op, const Arguments&... arguments) {
  return std::apply([&](const auto&... fields) { return op.call(arguments..., fields...); },
                    options.fields());
}

}  // namespace

at::Tensor cross_entropy(const Call& call) {
  static const auto op = find<decltype(Unboxed::cross_entropy<nullptr>)>("fused_ce::cross_entropy");
  return call_with(call.options, op, call.self, call.target, optional_if_defined(call.weight));
}

ForwardResult forward(const Call& call, std::optional<at::ScalarType> dtype, bool save) {
  static const auto op = find<decltype(Unboxed::forward<nullptr>)>("fused_ce::_forward");
  auto [loss, saved, total_weight] = call_with(call.options, op, call.self, call.target,
                                               optional_if_defined(call.weight), dtype, save);
  return {std::move(loss), std::move(saved), std::move(total_weight)};
}

at::Tensor backward(const at::Tensor& grad_output, const Call& call, const at::Tensor& saved,
                    const at::Tensor& total_weight) {
  static const auto op = find<decltype(Unboxed::backward<nullptr>)>("fused_ce::_backward");
  return call_with(call.options, op, grad_output, call.self, call.target,
                   optional_if_defined(call.weight), saved, total_weight);
}

}  // namespace fused_ce::ops
