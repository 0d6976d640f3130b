// SPDX-License-Identifier: BSD-3-Clause
// The public linear operators: shapes as users have them, and what is computed as a composition.
#pragma once

#include <optional>

#include "ops.h"

namespace fused_ce::linear::composite {

at::Tensor linear_cross_entropy(const LinearCall& call);
ops::ForwardResult linear_cross_entropy_stats(const LinearCall& call,
                                              std::optional<at::ScalarType> dtype);

// For AutocastCPU and AutocastCUDA: the layer in autocast's lower type, as torch's, and the loss in
// float.
at::Tensor autocast_linear_cross_entropy(const LinearCall& call);
ops::ForwardResult autocast_linear_cross_entropy_stats(const LinearCall& call,
                                                       std::optional<at::ScalarType> dtype);

// The layer in that type.
Layer autocast_layer(const Layer& layer);

// A batch of any number of dimensions as rows. Tensors that are not there stay so.
struct Rows {
  Layer layer;
  at::Tensor target, row_weight;
};
Rows rows_of(const Layer& layer, const at::Tensor& target, bool probabilities,
             const at::Tensor& row_weight);

// Of a batch of more dimensions than the losses know: `tensor` must have exactly this shape; and
// results of its rows get that.
void check_shape(const at::Tensor& tensor, const char* name, c10::SymIntArrayRef shape,
                 const at::Tensor& input);
void unflatten(ops::ForwardResult& result, const Options& options, c10::SymIntArrayRef batch);

}  // namespace fused_ce::linear::composite
