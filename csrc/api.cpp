// SPDX-License-Identifier: BSD-3-Clause
// The C++ API. What autocast, tracing, modes or transforms must see goes through the dispatcher, as
// from Python.
#include <torch/enum.h>

#include <utility>

#include "direct.h"
#include "fused_ce.h"
#include "linear/ops.h"
#include "linear/unboxed.h"
#include "parallel/composite.h"
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

// Options as C++ has them.
void set_loss(Options& o, const auto& options) {
  o.reduction = torch::enumtype::reduction_get_enum(options.reduction());
  o.ignore_index = options.ignore_index();
  o.label_smoothing = options.label_smoothing();
}
void set_head(Options& o, const auto& options) {
  set_loss(o, options);
  o.logit_scale = options.logit_scale();
  o.softcap = options.softcap();
  o.temperature = options.temperature();
  o.z_loss_weight = options.z_loss_weight();
  o.outputs = {options.z_loss_weight() != 0, options.return_lse(), options.return_entropy(),
               options.return_prediction()};
}

void set_slice(parallel::ParallelOptions& o, const distributed::Slice& slice) {
  o.first_class = slice.first_class;
  o.classes = slice.classes;
  o.group_size = slice.group_size;
  o.group_name = slice.group_name;
}

// The operators have an empty tensor in the place of what nobody asked for.
CrossEntropyStats asked_for(const Options& o, ops::ForwardResult r) {
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

}  // namespace

CrossEntropyStats cross_entropy_stats(const at::Tensor& input, const at::Tensor& target,
                                      const CrossEntropyStatsOptions& options) {
  Options o;
  set_head(o, options);
  o.in_place = options.in_place();
  const Call call{input, target, options.weight(), o, options.row_weight(), options.normalizer()};
  return asked_for(o, direct_or_dispatched_stats(call, options.dtype()));
}

CrossEntropyStats linear_cross_entropy_stats(const at::Tensor& input,
                                             const at::Tensor& linear_weight,
                                             const at::Tensor& target,
                                             const LinearCrossEntropyStatsOptions& options) {
  linear::LinearOptions o;
  set_head(o, options);
  const linear::Layer layer{input, linear_weight, options.linear_bias()};
  return asked_for(
      o, linear::ops::linear_cross_entropy_stats(
             {layer, target, options.weight(), o, options.row_weight(), options.normalizer()},
             options.dtype(), options.chunk_rows()));
}

CrossEntropyStats distributed::cross_entropy_stats(const at::Tensor& input,
                                                   const at::Tensor& target, const Slice& slice,
                                                   const CrossEntropyStatsOptions& options) {
  TORCH_CHECK(!options.in_place(), "in_place: the logits of a slice of the classes stay");
  parallel::ParallelOptions o;
  set_head(o, options);
  set_slice(o, slice);
  return asked_for(o, parallel::cross_entropy_stats(
                          {input, target, options.weight(), o},
                          {options.row_weight(), options.normalizer(), {}}, options.dtype()));
}

CrossEntropyStats distributed::linear_cross_entropy_stats(
    const at::Tensor& input, const at::Tensor& linear_weight, const at::Tensor& target,
    const Slice& slice, const LinearCrossEntropyStatsOptions& options) {
  parallel::ParallelOptions o;
  set_head(o, options);
  set_slice(o, slice);
  o.chunk_rows = linear::rows_or_chosen(options.chunk_rows());
  const linear::Layer layer{input, linear_weight, options.linear_bias()};
  return asked_for(o, parallel::linear_cross_entropy_stats(
                          {layer, target, options.weight(), o},
                          {options.row_weight(), options.normalizer(), {}}, options.dtype()));
}

at::Tensor linear_cross_entropy(const at::Tensor& input, const at::Tensor& linear_weight,
                                const at::Tensor& target,
                                const LinearCrossEntropyOptions& options) {
  linear::LinearOptions o;
  set_loss(o, options);
  const linear::Layer layer{input, linear_weight, options.linear_bias()};
  return linear::ops::linear_cross_entropy_stats({layer, target, options.weight(), o}, std::nullopt,
                                                 options.chunk_rows())
      .loss;
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
