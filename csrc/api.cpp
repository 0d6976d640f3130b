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

CrossEntropyStats cross_entropy_stats(const at::Tensor& input, const at::Tensor& target,
                                      const CrossEntropyStatsOptions& options) {
  Options o;
  o.reduction = torch::enumtype::reduction_get_enum(options.reduction());
  o.ignore_index = options.ignore_index();
  o.label_smoothing = options.label_smoothing();
  o.logit_scale = options.logit_scale();
  o.softcap = options.softcap();
  o.temperature = options.temperature();
  o.z_loss_weight = options.z_loss_weight();
  o.in_place = options.in_place();
  o.outputs = {options.z_loss_weight() != 0, options.return_lse(), options.return_entropy(),
               options.return_prediction()};
  const Call call{input, target, options.weight(), o, options.row_weight(), options.normalizer()};
  ops::ForwardResult r = direct_or_dispatched_stats(call, options.dtype());
  // The operator has an empty tensor in the place of what nobody asked for.
  const auto wanted = [&](Output output, at::Tensor& tensor) {
    return o.wants(output) ? std::move(tensor) : at::Tensor();
  };
  return {std::move(r.loss),
          wanted(kZLoss, r.z_loss),
          wanted(kLse, r.lse),
          wanted(kEntropy, r.entropy),
          wanted(kPrediction, r.prediction),
          wanted(kPrediction, r.confidence)};
}

Prediction predict(const at::Tensor& input, const PredictOptions& options) {
  Options o;
  o.logit_scale = options.logit_scale();
  o.softcap = options.softcap();
  o.temperature = options.temperature();
  ops::ForwardResult r = ops::predict(input, o);
  return {std::move(r.prediction), std::move(r.confidence), std::move(r.lse), std::move(r.entropy)};
}

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
