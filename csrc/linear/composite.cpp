// SPDX-License-Identifier: BSD-3-Clause
#include "composite.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/linear.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include "../arguments.h"
#include "../autocast.h"
#include "arguments.h"

namespace fused_ce::linear::composite {
namespace {

c10::SymInt product(c10::SymIntArrayRef sizes) {
  c10::SymInt result = 1;
  for (const c10::SymInt& size : sizes) result *= size;
  return result;
}

// A loss of several dimensions: its logits are there at once, as in torch's own.
ops::ForwardResult of_planes(const LinearCall& call, std::optional<at::ScalarType> dtype) {
  const auto& [input, weight, bias] = call.layer;
  TORCH_CHECK(input.dim() >= 2, "K-dimensional loss defined by linear_weight shape ",
              as_tuple(weight.sym_sizes()), " requires batched input, (N, ",
              input.sym_sizes().back(), "), got unbatched input with shape ",
              as_tuple(input.sym_sizes()));
  TORCH_CHECK(input.dim() == 2, "K-dimensional loss defined by linear_weight shape ",
              as_tuple(weight.sym_sizes()), " requires input (N, ", input.sym_sizes().back(),
              "), got input with shape ", as_tuple(input.sym_sizes()));
  const c10::SymIntArrayRef classes = weight.sym_sizes().slice(0, weight.dim() - 1);
  c10::SymDimVector shape{input.sym_size(0)};
  shape.append(classes.begin(), classes.end());
  const at::Tensor flat_bias =
      bias.defined() ? bias.reshape_symint({product(classes)}) : at::Tensor();
  const at::Tensor logits =
      at::linear(input, weight.reshape_symint({product(classes), weight.sym_sizes().back()}),
                 flat_bias)
          .reshape_symint(shape);
  return fused_ce::ops::cross_entropy_stats(call.at(logits), dtype);
}

ops::ForwardResult dispatched(const LinearCall& call, std::optional<at::ScalarType> dtype) {
  check_layer(call.layer);
  const auto& [input, weight, bias] = call.layer;
  check_defined(call.target, "target");
  if (weight.dim() > 2) return of_planes(call, dtype);

  const c10::SymIntArrayRef batch = input.sym_sizes().slice(0, input.dim() - 1);
  c10::SymDimVector logits(batch.begin(), batch.end());
  logits.push_back(weight.sym_size(0));
  const at::Tensor absent = absent_logits(input, logits);
  const bool probabilities = is_probabilities(absent, call.target);
  // Of these shapes, torch has its own words for what does not fit.
  if (input.dim() <= 2) {
    TORCH_CHECK_VALUE(
        input.dim() != 2 || call.target.dim() != 1 || must_equal(call.target.sym_size(0), batch[0]),
        "Expected input batch_size (", batch[0], ") to match target batch_size (",
        call.target.sym_size(0), "). input has shape ", as_tuple(input.sym_sizes()), ", target ",
        as_tuple(call.target.sym_sizes()));
    fused_ce::check_forward(call.at(absent), dtype);
  } else {
    check_shape(call.target, "target", probabilities ? logits : batch, input);
    if (call.row_weight.defined()) check_shape(call.row_weight, "row_weight", batch, input);
  }

  const Rows rows = rows_of(call.layer, call.target, probabilities, call.row_weight);
  // Which gradients are needed is asked where the tensors of each level are seen: autograd.cpp.
  ops::ForwardResult result = ops::forward(
      {rows.layer, rows.target, call.weight, call.options, rows.row_weight, call.normalizer}, dtype,
      /*save=*/false, /*needs=*/{});
  unflatten(result, call.options, batch);
  return result;
}

}  // namespace

void check_shape(const at::Tensor& tensor, const char* name, c10::SymIntArrayRef shape,
                 const at::Tensor& input) {
  TORCH_CHECK(must_equal(tensor.sym_sizes(), shape), "Expected ", name, " size ", as_tuple(shape),
              ", got ", as_tuple(tensor.sym_sizes()), " (input has shape ",
              as_tuple(input.sym_sizes()), ")");
}

Rows rows_of(const Layer& layer, const at::Tensor& target, bool probabilities,
             const at::Tensor& row_weight) {
  const auto& [input, weight, bias] = layer;
  const c10::SymIntArrayRef sizes = input.sym_sizes();
  const c10::SymInt rows = product(sizes.slice(0, sizes.size() - 1));
  const auto flat = [&](const at::Tensor& tensor) {
    return tensor.defined() ? tensor.reshape_symint({rows}) : tensor;
  };
  return {{input.reshape_symint({rows, sizes.back()}), weight, bias},
          probabilities ? target.reshape_symint({rows, weight.sym_size(0)}) : flat(target),
          flat(row_weight)};
}

void unflatten(ops::ForwardResult& result, const Options& options, c10::SymIntArrayRef batch) {
  const auto shape = [&](at::Tensor& tensor, bool is_of_rows) {
    if (is_of_rows) tensor = tensor.reshape_symint(batch);
  };
  shape(result.loss, options.by_row());
  shape(result.z_loss, options.by_row() && options.wants(kZLoss));
  shape(result.lse, options.wants(kLse));
  shape(result.entropy, options.wants(kEntropy));
  shape(result.prediction, options.wants(kPrediction));
  shape(result.confidence, options.wants(kPrediction));
}

Layer autocast_layer(const Layer& layer) {
  const c10::DeviceType device = layer.input.device().type();
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(
      at::autocast::get_autocast_dispatch_key_from_device_type(device));
  const at::ScalarType lower = at::autocast::get_autocast_dtype(device);
  const auto cast = [&](const at::Tensor& tensor) {
    return tensor.defined() ? at::autocast::cached_cast(lower, tensor, device) : tensor;
  };
  return {cast(layer.input), cast(layer.weight), cast(layer.bias)};
}

at::Tensor linear_cross_entropy(const LinearCall& call) {
  return linear_cross_entropy_stats(call, std::nullopt).loss;
}

ops::ForwardResult linear_cross_entropy_stats(const LinearCall& call,
                                              std::optional<at::ScalarType> dtype) {
  // Below vmap and its kin, as in ../composite.cpp.
  return autocast::is_enabled(call.layer.input) ? autocast_linear_cross_entropy_stats(call, dtype)
                                                : dispatched(call, dtype);
}

at::Tensor autocast_linear_cross_entropy(const LinearCall& call) {
  return autocast_linear_cross_entropy_stats(call, std::nullopt).loss;
}

ops::ForwardResult autocast_linear_cross_entropy_stats(const LinearCall& call,
                                                       std::optional<at::ScalarType> dtype) {
  const at::Tensor& input = call.layer.input;
  if (!input.defined() || !call.layer.weight.defined() || !call.target.defined())
    return dispatched(call, dtype);  // says what is wrong
  const Layer layer = autocast_layer(call.layer);
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(
      at::autocast::get_autocast_dispatch_key_from_device_type(input.device().type()));
  const at::Tensor weights = call.weight.defined()
                                 ? call.weight.to(autocast::wide(call.weight.scalar_type()))
                                 : call.weight;
  const LinearCall wide{layer,        call.target,     weights,
                        call.options, call.row_weight, call.normalizer};
  if (!dtype) {
    const bool is_double =
        input.scalar_type() == at::kDouble || (call.target.scalar_type() == at::kDouble);
    dtype = is_double ? at::kDouble : at::kFloat;
  }
  return dispatched(wide, dtype);
}

}  // namespace fused_ce::linear::composite
