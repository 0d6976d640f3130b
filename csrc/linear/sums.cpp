// SPDX-License-Identifier: BSD-3-Clause
#include "sums.h"

#include <ATen/ops/empty.h>

#include <utility>

#include "../arguments.h"

namespace fused_ce::linear {

Sums::Sums(const Layer& layer, const Products& products, const Chunks& chunks, Needs needs)
    : products_(products), needs_(needs) {
  // Contiguous, whatever the strides of the tensor.
  const auto of_type = layer.input.options().dtype(accumulate_type(layer.input));
  const auto like = [&](const at::Tensor& tensor) {
    return allocate_gradient_like(at::empty({1}, of_type).expand(tensor.sizes()));
  };
  if (needs[0]) sums_.input = like(layer.input);
  if (needs[0] && chunks.leaves_out) sums_.input.zero_();
  if (needs[1]) sums_.weight = like(layer.weight);
  if (needs[2]) sums_.bias = like(layer.bias);
}

void Sums::add(const at::Tensor& by_logits, const at::Tensor& rows, const Chunk& chunk) {
  if (needs_[0]) {
    // The rows lie where their gradients do, or apart from one another.
    at::Tensor into = chunk.index.defined()
                          ? at::empty({chunk.size, sums_.input.size(1)}, sums_.input.options())
                          : chunk.of(sums_.input);
    products_.input_gradient(by_logits, into);
    if (chunk.index.defined()) chunk.put(into, sums_.input);
  }
  if (needs_[1]) products_.add_weight_gradient(by_logits, rows, is_first_, sums_.weight);
  if (needs_[2]) Products::add_bias_gradient(by_logits, is_first_, sums_.bias);
  is_first_ = false;
}

Layer Sums::take() {
  if (is_first_) {  // no row counted
    for (at::Tensor* sum : sums_.all()) {
      if (sum->defined()) sum->zero_();
    }
  }
  return std::move(sums_);
}

}  // namespace fused_ce::linear
