// The C++ API. What autocast, tracing, modes or transforms must see goes through the dispatcher, as
// from Python.
#include <torch/enum.h>

#include <utility>

#include "direct.h"
#include "fused_ce.h"
#include "unboxed.h"

namespace fused_ce {
namespace {

at::Tensor call(const at::Tensor& input, const at::Tensor& target, const at::Tensor& weight,
                const torch::nn::CrossEntropyLossOptions& options) {
  return direct_or_dispatched({input,
                               target,
                               weight,
                               {torch::enumtype::reduction_get_enum(options.reduction()),
                                options.ignore_index(), options.label_smoothing()}});
}

}  // namespace

at::Tensor cross_entropy(const at::Tensor& input, const at::Tensor& target,
                         const torch::nn::functional::CrossEntropyFuncOptions& options) {
  return call(input, target, options.weight(), options);
}

at::Tensor cross_entropy(const at::Tensor& input, const at::Tensor& target,
                         const std::optional<at::Tensor>& weight, int64_t reduction,
                         const c10::SymInt& ignore_index, double label_smoothing) {
  return direct_or_dispatched(
      {input, target, tensor_or_undefined(weight), {reduction, ignore_index, label_smoothing}});
}

CrossEntropyLossImpl::CrossEntropyLossImpl(torch::nn::CrossEntropyLossOptions loss_options)
    : options(std::move(loss_options)) {
  // Qualified, as virtual dispatch is not up yet in a constructor.
  CrossEntropyLossImpl::reset();
}

void CrossEntropyLossImpl::reset() {
  // A tensor of its own on the same memory: `to` and `clone` set a buffer's data in place, and
  // would otherwise change the caller's tensor, and the weight of every copy of this module.
  const at::Tensor& given = options.weight();
  const bool is_constant = given.defined() && !given.requires_grad();
  weight = register_buffer("weight", is_constant ? given.detach() : given);
}

void CrossEntropyLossImpl::pretty_print(std::ostream& stream) const {
  stream << "fused_ce::CrossEntropyLoss()";
}

at::Tensor CrossEntropyLossImpl::forward(const at::Tensor& input, const at::Tensor& target) {
  // The buffer and not options.weight(): `module->to(device)` replaces the buffer alone.
  return call(input, target, weight, options);
}

}  // namespace fused_ce
