// SPDX-License-Identifier: BSD-3-Clause
// The three matrix products of a layer and its gradients, for some rows of the input at a time.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>

#include "call.h"

namespace fused_ce::linear {

// The type in which the layer is multiplied: the input's own, but float for the half types of a CPU
// whose products of those are slower than its products of float, and which has no better logits.
at::ScalarType product_type(const at::Tensor& input);

class Products {
 public:
  explicit Products(const Layer& layer);

  // Rows of the input as the products take them.
  at::Tensor operand(const at::Tensor& rows) const { return rows.to(type_); }
  // The logits of some rows, (rows, C), into a tensor of the product type.
  void logits(const at::Tensor& rows, at::Tensor& into) const;

  // Of a gradient by the logits: that by the rows, into a tensor of the accumulate type, and what
  // the sums over all rows become, which are in that type as well. The first rows begin them.
  void input_gradient(const at::Tensor& by_logits, at::Tensor& into) const;
  void add_weight_gradient(const at::Tensor& by_logits, const at::Tensor& rows, bool first,
                           at::Tensor& sum) const;
  static void add_bias_gradient(const at::Tensor& by_logits, bool first, at::Tensor& sum);

 private:
  const Layer& layer_;
  at::ScalarType type_;
  at::Tensor bias_;
  int64_t block_;             // of classes, whose weights are converted at a time
  at::Tensor block_weights_;  // of that many, where they are converted

  template <class F>
  void for_blocks(F f) const;
};

}  // namespace fused_ce::linear
