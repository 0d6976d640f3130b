// SPDX-License-Identifier: BSD-3-Clause
#include "products.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/sum.h>

#include <algorithm>

#include "../arguments.h"
#include "../capability.h"
#include "part.h"

namespace fused_ce::linear {
namespace {

// Of float: what stays in the caches, or takes a GPU long enough. Of less, threads would wait for
// one another too often.
constexpr int64_t kBytesOnCpu = 4 << 20, kBytesOnGpu = 64 << 20;

// How many classes make a block of that size.
int64_t block_of(const at::Tensor& weight) {
  const int64_t bytes = weight.is_cpu() ? kBytesOnCpu : kBytesOnGpu;
  const int64_t a_class = weight.size(1) * static_cast<int64_t>(sizeof(float));
  return std::max<int64_t>(256, bytes / std::max<int64_t>(a_class, 1));
}

template <class F>
void for_parts(int64_t size, int64_t part, F f) {
  for (int64_t begin = 0; begin < size; begin += part) f(begin, std::min(part, size - begin));
}

}  // namespace

at::ScalarType product_type(const at::Tensor& input) {
  const at::ScalarType type = input.scalar_type();
  const bool is_half = type == at::kHalf || type == at::kBFloat16;
  if (!is_half || !input.is_cpu()) return type;
  return type == at::kBFloat16 && has_bfloat16_products() ? type : at::kFloat;
}

Products::Products(const Layer& layer)
    : layer_(layer), type_(product_type(layer.input)), block_(block_of(layer.weight)) {
  if (layer.bias.defined()) bias_ = layer.bias.to(type_);
  if (layer.weight.scalar_type() != type_) {
    const int64_t classes = std::min(block_, layer.weight.size(0));
    block_weights_ =
        at::empty({classes, layer.weight.size(1)}, layer.weight.options().dtype(type_));
  }
}

// f(weights, begin, size): the weights of some classes, in the product type.
template <class F>
void Products::for_blocks(F f) const {
  const at::Tensor& weight = layer_.weight;
  if (!block_weights_.defined()) return f(weight, 0, weight.size(0));
  for_parts(weight.size(0), block_, [&](int64_t begin, int64_t size) {
    at::Tensor block = part_of(block_weights_, 0, 0, size);
    f(block.copy_(part_of(weight, 0, begin, size)), begin, size);
  });
}

void Products::logits(const at::Tensor& rows, at::Tensor& into) const {
  for_blocks([&](const at::Tensor& weights, int64_t begin, int64_t size) {
    at::Tensor part = part_of(into, 1, begin, size);
    if (bias_.defined()) {
      at::addmm_out(part, part_of(bias_, 0, begin, size), rows, weights.t());
    } else {
      at::mm_out(part, rows, weights.t());
    }
  });
}

void Products::input_gradient(const at::Tensor& by_logits, at::Tensor& into) const {
  if (into.scalar_type() != type_) {
    into.copy_(at::mm(by_logits, layer_.weight));
    return;
  }
  if (layer_.weight.size(0) == 0) into.zero_();
  for_blocks([&](const at::Tensor& weights, int64_t begin, int64_t size) {
    const at::Tensor part = part_of(by_logits, 1, begin, size);
    if (begin == 0) {
      at::mm_out(into, part, weights);
    } else {
      into.addmm_(part, weights);
    }
  });
}

void Products::add_weight_gradient(const at::Tensor& by_logits, const at::Tensor& rows, bool first,
                                   at::Tensor& sum) const {
  const at::Tensor transposed = by_logits.t();
  if (sum.scalar_type() != type_) {
    // No product of half types adds to float: a part that stays in the cache does.
    return for_parts(sum.size(0), block_, [&](int64_t begin, int64_t size) {
      at::Tensor part = part_of(sum, 0, begin, size);
      const at::Tensor product = at::mm(part_of(transposed, 0, begin, size), rows);
      first ? part.copy_(product) : part.add_(product);
    });
  }
  if (first) {
    at::mm_out(sum, transposed, rows);
  } else {
    sum.addmm_(transposed, rows);
  }
}

void Products::add_bias_gradient(const at::Tensor& by_logits, bool first, at::Tensor& sum) {
  const at::Tensor of_rows = at::sum(by_logits, /*dim=*/0, /*keepdim=*/false, sum.scalar_type());
  first ? sum.copy_(of_rows) : sum.add_(of_rows);
}

}  // namespace fused_ce::linear
