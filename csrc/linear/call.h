// SPDX-License-Identifier: BSD-3-Clause
// A call of the linear operators: a layer whose outputs are the logits, and what the loss asks for.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>
#include <c10/core/SymInt.h>

#include <array>
#include <cstddef>
#include <optional>
#include <tuple>

#include "../options.h"

namespace fused_ce::linear {

// The layer's tensors, or for each of them a gradient or a tangent; undefined where there is none.
struct Layer {
  at::Tensor input;   // (N, K)
  at::Tensor weight;  // (C, K)
  at::Tensor bias;    // (C)
  static constexpr size_t kCount = 3;

  std::array<at::Tensor*, kCount> all() { return {&input, &weight, &bias}; }
  std::array<const at::Tensor*, kCount> all() const { return {&input, &weight, &bias}; }
};

// Of a Layer's tensors, in their order.
using Needs = std::array<bool, Layer::kCount>;
inline bool any(const Needs& needs) { return needs[0] || needs[1] || needs[2]; }

struct LinearOptions : Options {
  c10::SymInt chunk_rows = 0;  // whose logits there are at a time; 0: chosen by what they need

  static auto fields_of(auto& o) {
    return std::tuple_cat(loss_fields_of(o), logit_fields_of(o), output_fields_of(o),
                          std::tie(o.chunk_rows));
  }
  auto fields() { return fields_of(*this); }
  auto fields() const { return fields_of(*this); }
};

// References alone, as in Call.
struct LinearCall {
  const Layer& layer;
  const at::Tensor& target;
  const at::Tensor& weight;  // of the classes
  const LinearOptions& options;
  const at::Tensor& row_weight = undefined();
  const at::Tensor& normalizer = undefined();

  // What is left where the logits are there.
  Call at(const at::Tensor& logits) const {
    return {logits, target, weight, options, row_weight, normalizer};
  }
};

}  // namespace fused_ce::linear
