// SPDX-License-Identifier: BSD-3-Clause
#include "arguments.h"

#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include <sstream>

#include "../arguments.h"

namespace fused_ce::linear {
namespace {

// Of the weight and the bias.
void check_like_input(const at::Tensor& input, const at::Tensor& tensor, const char* name) {
  check_dense(tensor, name, "linear_cross_entropy");
  check_device(input, tensor, name);
  TORCH_CHECK(tensor.scalar_type() == input.scalar_type(), "expected ", name,
              " and input to have the same dtype, but got ", tensor.scalar_type(), " and ",
              input.scalar_type());
}

void check_needs(const LinearCall& call, Needs needs) {
  check_defined(call.target, "target");
  TORCH_CHECK_VALUE(call.options.chunk_rows >= 0, "chunk_rows must not be negative, got ",
                    call.options.chunk_rows);
  TORCH_CHECK(call.layer.bias.defined() || !needs[2],
              "fused_ce: there is no linear_bias, and so no gradient by it");
}

}  // namespace

void check_defined(const at::Tensor& tensor, const char* name) {
  TORCH_CHECK_TYPE(tensor.defined(), "linear_cross_entropy(): argument '", name,
                   "' must be Tensor, not None");
}

std::string as_tuple(c10::SymIntArrayRef shape) {
  std::ostringstream text;
  text << '(';
  for (size_t d = 0; d < shape.size(); ++d) text << (d == 0 ? "" : ", ") << shape[d];
  text << (shape.size() == 1 ? ",)" : ")");
  return text.str();
}

at::Tensor absent_logits(const at::Tensor& input, c10::SymIntArrayRef shape) {
  const c10::SymDimVector one(shape.size(), 1);
  return at::empty_symint(one, input.options()).expand_symint(shape);
}

at::Tensor absent_logits(const LinearCall& call) {
  const auto& [input, weight, bias] = call.layer;
  check_layer(call.layer);
  TORCH_CHECK(input.dim() == 2 && weight.dim() == 2,
              "fused_ce: expected input (N, K) and linear_weight (C, K), got ", input.sym_sizes(),
              " and ", weight.sym_sizes());
  return absent_logits(input, {input.sym_size(0), weight.sym_size(0)});
}

void check_layer(const Layer& layer) {
  const auto& [input, weight, bias] = layer;
  check_input(input, "linear_cross_entropy");
  check_defined(weight, "linear_weight");
  TORCH_CHECK(input.dim() >= 1,
              "expected input with dimensionality at least 1, (*, in_features), got 0");
  TORCH_CHECK(weight.dim() >= 2, "expected linear_weight with dimensionality at least 2, got ",
              weight.dim());
  check_like_input(input, weight, "linear_weight");
  TORCH_CHECK(must_equal(input.sym_sizes().back(), weight.sym_sizes().back()),
              "expected equal input and linear_weight last dimensions (in_features), got ",
              input.sym_sizes().back(), " and ", weight.sym_sizes().back(), ", respectively");
  if (!bias.defined()) return;
  check_like_input(input, bias, "linear_bias");
  const c10::SymIntArrayRef classes = weight.sym_sizes().slice(0, weight.dim() - 1);
  TORCH_CHECK(must_equal(bias.sym_sizes(), classes), "expected linear_bias shape ",
              as_tuple(classes), ", got ", as_tuple(bias.sym_sizes()), " (linear_weight has shape ",
              as_tuple(weight.sym_sizes()), ")");
}

at::ScalarType check_forward(const LinearCall& call, const at::Tensor& absent,
                             std::optional<at::ScalarType> dtype, Needs needs) {
  check_needs(call, needs);
  return fused_ce::check_forward(call.at(absent), dtype);
}

void check_backward(const ops::Gradients& grads, const LinearCall& call, const at::Tensor& absent,
                    const at::Tensor& saved, const at::Tensor& total_weight, Needs needs) {
  check_needs(call, needs);
  fused_ce::check_backward(grads, call.at(absent), saved, total_weight);
}

}  // namespace fused_ce::linear
