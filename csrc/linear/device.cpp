// SPDX-License-Identifier: BSD-3-Clause
#include "device.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <utility>

#include "../allocate.h"
#include "../arguments.h"
#include "../describe.h"
#include "../device.h"
#include "../formula.h"
#include "arguments.h"
#include "chunks.h"
#include "part.h"
#include "products.h"
#include "rows.h"
#include "sums.h"

namespace fused_ce::linear::device {
namespace {

// f(chunk, its rows of the input, what is asked of its logits).
template <class F>
void for_calls(const LinearCall& call, const at::Tensor& absent, const Options& options,
               const Products& products, const Chunks& chunks, F f) {
  const MaybeOwned weight = class_weight_of(call.at(absent));
  const at::Tensor weight_sum = weight_sum_of(call.at(absent), *weight);
  for_logits(
      call.layer, products, chunks,
      [&](const Chunk& chunk, const at::Tensor& rows, const at::Tensor& logits) {
        const at::Tensor target = chunk.of(call.target);
        const at::Tensor row_weight = chunk.of(call.row_weight);
        f(chunk, rows,
          Call{logits, target, *weight, options, row_weight, undefined(), nullptr, weight_sum});
      });
}

// A number a row of the batch, of those that were asked for; 0 where no chunk puts one.
class Rows {
 public:
  Rows(const LinearCall& call, bool save, const Chunks& chunks) : is_batch_(chunks.is_batch()) {
    if (is_batch_) return;
    const Options& options = call.options;
    const at::ScalarType type = accumulate_type(call.layer.input);
    const int64_t rows = call.layer.input.size(0);
    const auto numbers = [&](at::IntArrayRef shape, at::ScalarType dtype) {
      const auto of = call.layer.input.options().dtype(dtype);
      return chunks.leaves_out ? at::zeros(shape, of) : at::empty(shape, of);
    };
    result.loss = numbers({rows}, at::kDouble);
    if (options.wants(kZLoss)) result.z_loss = numbers({rows}, at::kDouble);
    if (options.wants(kLse)) result.lse = numbers({rows}, type);
    if (options.wants(kEntropy)) result.entropy = numbers({rows}, type);
    if (options.wants(kPrediction)) {
      result.prediction = numbers({rows}, at::kLong);
      result.confidence = numbers({rows}, type);
    }
    if (save) result.saved = numbers({options.saved_numbers(), rows}, type);
  }

  void put(const Chunk& chunk, ops::ForwardResult part) {
    if (is_batch_) {
      static_cast<ops::ForwardResult&>(result) = std::move(part);
      return;
    }
    const auto put = [&](const at::Tensor& values, const at::Tensor& all, int64_t dim = 0) {
      if (all.defined()) chunk.put(values, all, dim);
    };
    put(part.loss, result.loss), put(part.z_loss, result.z_loss);
    put(part.lse, result.lse), put(part.entropy, result.entropy);
    put(part.prediction, result.prediction), put(part.confidence, result.confidence);
    put(part.saved, result.saved, /*dim=*/1);
  }

  ops::LinearResult result;

 private:
  bool is_batch_;
};

// What a mean divides by, in double.
at::Tensor total_weight_of(const LinearCall& call, const at::Tensor& absent, const Chunks& chunks) {
  const bool is_count = absent.is_cpu() && !call.weight.defined() && !call.row_weight.defined() &&
                        !call.normalizer.defined() &&
                        !at::isFloatingType(call.target.scalar_type());
  if (!is_count) return formula::total_weight(call.at(absent));
  at::Tensor total = allocate({}, absent, at::kDouble);
  *total.mutable_data_ptr<double>() = static_cast<double>(chunks.counted);
  return total;
}

// The gradient of the loss by that of each row, times the scale.
ops::Gradients unit_of(const LinearCall& call, const at::Tensor& absent,
                       const at::Tensor& total_weight) {
  const at::Tensor scale = gradient_scale(call, total_weight);
  if (scale.defined()) return {scale / total_weight, {}, {}, {}};
  if (call.options.is_mean()) return {total_weight.reciprocal(), {}, {}, {}};
  return {at::ones({}, absent.options().dtype(at::kDouble)), {}, {}, {}};
}

}  // namespace

ops::LinearResult forward(const LinearCall& call, std::optional<at::ScalarType> dtype, bool save,
                          Needs needs) {
  const PlainProducts guard;
  const at::Tensor absent = absent_logits(call);
  const at::ScalarType type = check_forward(call, absent, dtype, needs);
  TORCH_CHECK(!(any(needs) && call.options.by_row()),
              "fused_ce::_linear_forward: the loss of each row has a gradient of its own");
  const Chunks chunks = chunks_of(call, call.options.wants(kPrediction));
  const Products products(call.layer);
  Rows rows(call, save, chunks);
  Sums sums(call.layer, products, chunks, needs);
  at::Tensor total_weight;
  if (call.options.is_mean()) total_weight = total_weight_of(call, absent, chunks);
  ops::Gradients unit;
  if (any(needs)) unit = unit_of(call, absent, total_weight);
  const Options of_rows = by_row(call.options), of_sum = without_mean(call.options);
  for_calls(call, absent, of_rows, products, chunks,
            [&](const Chunk& chunk, const at::Tensor& input, const Call& part) {
              const bool has_gradient = any(needs) && chunk.counts;
              ops::ForwardResult result;
              fused_ce::device::direct_forward(part, at::kDouble, save || has_gradient, result);
              const at::Tensor saved = result.saved;
              rows.put(chunk, std::move(result));
              if (!has_gradient) return;
              fused_ce::device::backward_(unit, part.with(of_sum), saved, {});
              sums.add(part.self, input, chunk);
            });

  ops::LinearResult& result = rows.result;
  result.loss = reduced(result.loss, call.options, total_weight, type);
  if (call.options.wants(kZLoss))
    result.z_loss = reduced(result.z_loss, call.options, total_weight, type);
  if (save) {
    result.total_weight = std::move(total_weight);
  } else {
    result.saved.reset();
  }
  fused_ce::device::replace_undefined(result, absent);
  result.gradients = sums.take();
  replace_undefined(result.gradients, absent, accumulate_type(absent));
  return std::move(result);
}

Layer backward(const ops::Gradients& grads, const LinearCall& call, const at::Tensor& saved,
               const at::Tensor& total_weight, Needs needs) {
  const PlainProducts guard;
  const at::Tensor absent = absent_logits(call);
  check_backward(grads, call, absent, saved, total_weight, needs);
  const Chunks chunks = chunks_of(call, /*ignored_too=*/false);
  const Products products(call.layer);
  Sums sums(call.layer, products, chunks, needs);
  ops::Gradients of_all = of_sums(grads, call.options, total_weight);
  const at::Tensor scale = gradient_scale(call, total_weight);
  for (at::Tensor* grad : of_all.all()) {
    if (scale.defined() && grad->defined()) *grad = *grad * scale;
  }
  const Options options = without_mean(call.options);
  for_calls(call, absent, options, products, chunks,
            [&](const Chunk& chunk, const at::Tensor& input, const Call& part) {
              const ops::Gradients given = part_of(
                  of_all, call.options, [&](const at::Tensor& batch) { return chunk.of(batch); });
              fused_ce::device::backward_(given, part, chunk.of(saved, /*dim=*/1), {});
              sums.add(part.self, input, chunk);
            });
  Layer result = sums.take();
  const at::ScalarType type = call.layer.input.scalar_type();
  for (at::Tensor* gradient : result.all()) {
    if (!gradient->defined()) continue;
    if (scale.defined()) gradient->div_(scale);
    *gradient = gradient->to(type);
  }
  replace_undefined(result, call.layer.input, type);
  return result;
}

void replace_undefined(Layer& layer, const at::Tensor& input, at::ScalarType dtype) {
  for (at::Tensor* tensor : layer.all()) {
    if (!tensor->defined()) *tensor = fused_ce::device::nothing(input, dtype);
  }
}

}  // namespace fused_ce::linear::device
