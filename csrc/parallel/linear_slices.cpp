// SPDX-License-Identifier: BSD-3-Clause
#include "linear_slices.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/ceil.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/exp2.h>
#include <ATen/ops/log2.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <tuple>
#include <utility>

#include "../../kernels/problem.h"
#include "../arguments.h"
#include "../describe.h"
#include "../device.h"
#include "../linear/arguments.h"
#include "../linear/device.h"
#include "../linear/sums.h"
#include "../operator.h"
#include "unboxed.h"

namespace fused_ce::parallel {
namespace {

using linear::Chunk;
using linear::Chunks;
using linear::Layer;
using linear::LinearCall;
using linear::LinearOptions;
using linear::Needs;
using linear::Products;

// A tensor of the logits' shape. Throws where the arguments do not fit.
at::Tensor check(const ParallelLinearCall& call, const at::Tensor& weight_sum) {
  const LinearOptions options = linear_options(call.options);
  const at::Tensor absent = linear::absent_logits({call.layer, call.target, call.weight, options});
  const ParallelCall here = call.at(absent);
  fused_ce::check_forward(here.call(nullptr), at::kDouble);
  check_slice(here, weight_sum);
  return absent;
}

void check_needs(const ParallelLinearCall& call, Needs needs) {
  TORCH_CHECK(call.layer.bias.defined() || !needs[2],
              "fused_ce: there is no linear_bias, and so no gradient by it");
}

Chunks chunks_of(const ParallelLinearCall& call, bool ignored_too) {
  const LinearOptions options = linear_options(call.options);
  return linear::chunks_of({call.layer, call.target, call.weight, options}, ignored_too,
                           call.options.classes);
}

// f(chunk, its rows of the input, the call of its logits).
template <class F>
void for_calls(const ParallelLinearCall& call, const at::Tensor& absent, const Products& products,
               const Chunks& chunks, F f) {
  const MaybeOwned weight = class_weight_of(call.at(absent).call(nullptr));
  linear::for_logits(call.layer, products, chunks,
                     [&](const Chunk& chunk, const at::Tensor& rows, const at::Tensor& logits) {
                       const at::Tensor target = chunk.of(call.target);
                       f(chunk, rows, ParallelCall{logits, target, *weight, call.options});
                     });
}

// What gradients are multiplied with on their way through logits of a half type, in which those of
// a mean over many rows would be nothing; a power of two, which changes no digit. Undefined: with
// nothing.
at::Tensor gradient_scale(const ops::Gradients& grads, const at::Tensor& input) {
  const at::ScalarType type = linear::product_type(input);
  if (type == at::kFloat || type == at::kDouble || input.size(0) == 0) return {};
  at::Tensor most = at::zeros({}, input.options().dtype(at::kDouble));
  for (const at::Tensor* grad : grads.all()) {
    if (grad->defined()) most = most.maximum(grad->abs().max());
  }
  const at::Tensor scale = at::exp2(at::ceil(-at::log2(most)));
  return at::where(scale.isfinite().logical_and(scale > 1), scale, 1.0);
}

}  // namespace

LinearOptions linear_options(const ParallelOptions& options) {
  LinearOptions o;
  static_cast<Options&>(o) = options;
  o.chunk_rows = options.chunk_rows;
  return o;
}

at::Tensor slice_linear_sums(const ParallelLinearCall& call, const at::Tensor& weight_sum) {
  static const auto op =
      find_operator<decltype(Unboxed::slice_linear_sums<nullptr>)>("fused_ce::_slice_linear_sums");
  return std::apply(
      [&](const auto&... fields) {
        return op.call(call.layer.input, call.layer.weight, optional_if_defined(call.layer.bias),
                       call.target, optional_if_defined(call.weight),
                       optional_if_defined(weight_sum), fields..., call.options.chunk_rows);
      },
      call.options.slice_fields());
}

Layer slice_linear_backward(const ops::Gradients& grads, const ParallelLinearCall& call,
                            const WholeWeights& weights, const at::Tensor& saved, Needs needs) {
  static const auto op = find_operator<decltype(Unboxed::slice_linear_backward<nullptr>)>(
      "fused_ce::_slice_linear_backward");
  Layer result;
  std::tie(result.input, result.weight, result.bias) = std::apply(
      [&](const auto&... fields) {
        return op.call(optional_if_defined(grads.loss), optional_if_defined(grads.lse),
                       optional_if_defined(grads.entropy), call.layer.input, call.layer.weight,
                       optional_if_defined(call.layer.bias), call.target,
                       optional_if_defined(call.weight), optional_if_defined(weights.target_weight),
                       optional_if_defined(weights.weight_sum), saved, needs[0], needs[1], needs[2],
                       fields..., call.options.chunk_rows);
      },
      call.options.slice_fields());
  for (size_t i = 0; i < Layer::kCount; ++i) {
    if (!needs[i]) result.all()[i]->reset();
  }
  return result;
}

at::Tensor device::slice_linear_sums(const ParallelLinearCall& call, const at::Tensor& weight_sum) {
  const linear::PlainProducts guard;
  const at::Tensor absent = check(call, weight_sum);
  if (absent.size(1) == 0) return device::slice_sums(call.at(absent), weight_sum);
  // Rows that no chunk has are harmless numbers.
  const at::Tensor sums =
      at::zeros({absent.size(0), SliceSums::kNumbers}, absent.options().dtype(at::kDouble));
  for_calls(call, absent, Products(call.layer), chunks_of(call, call.options.wants(kPrediction)),
            [&](const Chunk& chunk, const at::Tensor&, const ParallelCall& part) {
              chunk.put(device::slice_sums(part, weight_sum), sums);
            });
  return sums;
}

Layer device::slice_linear_backward(const ops::Gradients& given, const ParallelLinearCall& call,
                                    const WholeWeights& weights, const at::Tensor& saved,
                                    Needs needs) {
  const linear::PlainProducts guard;
  const at::Tensor absent = check(call, weights.weight_sum);
  check_target_weight(call.at(absent), weights.target_weight);
  check_backward(given, call.at(absent).call(nullptr), saved, undefined());
  check_needs(call, needs);
  const Chunks chunks = absent.size(1) == 0 ? Chunks{} : chunks_of(call, /*ignored_too=*/false);
  const Products products(call.layer);
  linear::Sums sums(call.layer, products, chunks, needs);
  ops::Gradients grads = given;
  const at::Tensor scale = gradient_scale(grads, call.layer.input);
  for (at::Tensor* grad : grads.all()) {
    if (scale.defined() && grad->defined()) *grad = *grad * scale;
  }
  for_calls(call, absent, products, chunks,
            [&](const Chunk& chunk, const at::Tensor& rows, const ParallelCall& part) {
              ops::Gradients of_chunk;
              for (size_t i = 0; i < grads.kCount; ++i)
                *of_chunk.all()[i] = chunk.of(*grads.all()[i]);
              const at::Tensor target_weight = chunk.of(weights.target_weight);
              const ClassSlice slice = slice_of(part, target_weight);
              fused_ce::device::backward_(of_chunk, part.call(&slice, weights.weight_sum),
                                          chunk.of(saved, /*dim=*/1), undefined());
              sums.add(part.self, rows, chunk);
            });
  Layer result = sums.take();
  for (at::Tensor* gradient : result.all()) {
    if (gradient->defined() && scale.defined()) gradient->div_(scale);
  }
  const at::ScalarType type = call.layer.input.scalar_type();
  if (needs[1]) result.weight = result.weight.to(type);
  if (needs[2]) result.bias = result.bias.to(type);
  linear::device::replace_undefined(result, call.layer.input, type);
  return result;
}

at::Tensor meta::slice_linear_sums(const ParallelLinearCall& call, const at::Tensor& weight_sum) {
  const at::Tensor absent = check(call, weight_sum);
  return at::empty_symint({absent.sym_size(0), SliceSums::kNumbers},
                          absent.options().dtype(at::kDouble));
}

Layer meta::slice_linear_backward(const ops::Gradients& given, const ParallelLinearCall& call,
                                  const WholeWeights& weights, const at::Tensor& saved,
                                  Needs needs) {
  const at::Tensor absent = check(call, weights.weight_sum);
  check_target_weight(call.at(absent), weights.target_weight);
  check_backward(given, call.at(absent).call(nullptr), saved, undefined());
  check_needs(call, needs);
  const at::ScalarType type = call.layer.input.scalar_type();
  Layer result;
  for (size_t i = 0; i < Layer::kCount; ++i) {
    if (!needs[i]) continue;
    const at::Tensor& of = *call.layer.all()[i];
    *result.all()[i] =
        at::empty_symint(of.sym_sizes(), of.options().dtype(i == 0 ? accumulate_type(of) : type));
  }
  linear::device::replace_undefined(result, call.layer.input, type);
  return result;
}

}  // namespace fused_ce::parallel
