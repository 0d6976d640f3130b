// SPDX-License-Identifier: BSD-3-Clause
// A call of the operators for logits whose classes are shared out to processes: each has a slice of
// them, all have the targets.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/SymInt.h>

#include <cstdint>
#include <string>
#include <tuple>

#include "../linear/call.h"
#include "../options.h"

namespace fused_ce::parallel {

struct ParallelOptions : Options {
  int64_t first_class = 0;  // of this process's
  int64_t classes = 0;      // of all processes together
  // The processes that have the classes, under the name that torch.distributed's functional
  // collectives know them by; of no meaning where one process has all.
  int64_t group_size = 1;
  std::string group_name;
  int64_t call_id = 0;         // the same on all of them, or they have made different calls
  c10::SymInt chunk_rows = 0;  // of a linear layer, as in LinearOptions

  static auto slice_fields_of(auto& o) {
    return std::tuple_cat(loss_fields_of(o), logit_fields_of(o), output_fields_of(o),
                          std::tie(o.first_class, o.classes));
  }
  static auto fields_of(auto& o) {
    return std::tuple_cat(slice_fields_of(o),
                          std::tie(o.group_size, o.group_name, o.call_id, o.chunk_rows));
  }
  auto slice_fields() { return slice_fields_of(*this); }
  auto slice_fields() const { return slice_fields_of(*this); }
  auto fields() { return fields_of(*this); }
  auto fields() const { return fields_of(*this); }
};

inline constexpr char kSliceSchema[] = "int first_class, int classes";
inline constexpr char kGroupSchema[] = "int group_size, str group_name, int call_id=0";

// References alone, as in Call. What is asked of rows; what a loss makes of them is
// composite.cpp's.
struct ParallelCall {
  const at::Tensor& self;    // the logits of this process's classes
  const at::Tensor& target;  // class indices, counted from the first of all classes; or the class
                             // probabilities of these
  const at::Tensor& weight;  // of these classes
  const ParallelOptions& options;

  Call call(const ClassSlice* slice, const at::Tensor& weight_sum = undefined()) const {
    return {self, target, weight, options, undefined(), undefined(), slice, weight_sum};
  }
};

// What is asked of the rows of a layer whose outputs are the logits.
struct ParallelLinearCall {
  const linear::Layer& layer;  // the weight and the bias of these classes
  const at::Tensor& target;
  const at::Tensor& weight;
  const ParallelOptions& options;

  ParallelCall at(const at::Tensor& logits) const { return {logits, target, weight, options}; }
};

}  // namespace fused_ce::parallel
