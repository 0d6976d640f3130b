// SPDX-License-Identifier: BSD-3-Clause
// A call of the operator: its tensors, and what it asks for beside them.
//
// An option more is a field of Options and a word of its schema here, the last of each; a check in
// arguments.cpp; its use in describe.cpp (the kernels' Problem) and formula.cpp (the same in ATen);
// and an argument of the public functions, in C++ (fused_ce.h) and Python (bindings.cpp, stats.py,
// modules.py, linear.py). One that changes what a mean divides by is used in _vmap.py. A tensor
// more is a member of Call, an argument in unboxed.h and library.cpp, and kept for backward in
// nodes.cpp.
#pragma once

#include <ATen/core/Reduction.h>
#include <ATen/core/Tensor.h>
#include <c10/core/SymInt.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <tuple>

namespace fused_ce {

// What there may be beside the loss. kPrediction: the confidence as well.
enum Output : size_t { kZLoss, kLse, kEntropy, kPrediction };
using Outputs = std::array<bool, 4>;

struct Options {
  // cross_entropy has these alone.
  int64_t reduction = at::Reduction::Mean;
  c10::SymInt ignore_index = -100;
  double label_smoothing = 0.0;

  double logit_scale = 1.0;
  std::optional<double> softcap = std::nullopt;
  double temperature = 1.0;
  double z_loss_weight = 0.0;
  bool in_place = false;  // the gradient overwrites the logits
  Outputs outputs{};

  // A word of its own for each output: torch.jit.trace records no lists of bool.
  static auto output_fields_of(auto& o) {
    return std::tie(o.outputs[kZLoss], o.outputs[kLse], o.outputs[kEntropy],
                    o.outputs[kPrediction]);
  }
  static auto logit_fields_of(auto& o) {
    return std::tie(o.logit_scale, o.softcap, o.temperature, o.z_loss_weight);
  }
  static auto loss_fields_of(auto& o) {
    return std::tie(o.reduction, o.ignore_index, o.label_smoothing);
  }
  static auto head_fields_of(auto& o) {
    return std::tuple_cat(logit_fields_of(o), std::tie(o.in_place), output_fields_of(o));
  }

  // All fields, in the order of the schemas.
  auto loss_fields() { return loss_fields_of(*this); }
  auto head_fields() { return head_fields_of(*this); }
  auto fields() { return std::tuple_cat(loss_fields(), head_fields()); }
  auto loss_fields() const { return loss_fields_of(*this); }
  auto head_fields() const { return head_fields_of(*this); }
  auto fields() const { return std::tuple_cat(loss_fields(), head_fields()); }

  bool by_row() const { return reduction == at::Reduction::None; }
  bool is_mean() const { return reduction == at::Reduction::Mean; }
  bool wants(Output output) const { return outputs[output]; }

  // Of the results that have derivatives: the loss, the z-loss, the log-sum-exp, the entropy.
  bool has_result(size_t i) const { return i == 0 || outputs[i - 1]; }

  // The logit z of a number x is scale * x, or with a cap z = cap * tanh(scale * x / cap).
  double scale() const { return logit_scale / temperature; }
  double cap() const { return softcap ? *softcap / temperature : 0.0; }  // 0: none
  // How many numbers a row are saved for backward.
  int64_t saved_numbers() const { return wants(kEntropy) ? 4 : 3; }
  // Whether forward is asked for what it has to find the largest logit for.
  bool wants_statistics() const { return wants(kEntropy) || wants(kPrediction); }
};

inline constexpr char kLossSchema[] =
    "int reduction=1, SymInt ignore_index=-100, float label_smoothing=0.0";
inline constexpr char kLogitSchema[] =
    "float logit_scale=1.0, float? softcap=None, float temperature=1.0, float z_loss_weight=0.0";
inline constexpr char kOutputSchema[] =
    "bool return_z_loss=False, bool return_lse=False, bool return_entropy=False, "
    "bool return_prediction=False";

inline const at::Tensor& undefined() {
  static const at::Tensor tensor;
  return tensor;
}

// Where the logits at hand are of some of the classes, [first, first + their number) of `classes`,
// and the others are with other processes (parallel/). Class indices count from the first of all.
struct ClassSlice {
  int64_t first, classes;
  // Backward: what each row's target weighs, wherever it is, in double; not of class probabilities.
  const at::Tensor& target_weight = undefined();
};

// References alone: a call lives no longer than the arguments that it is made of.
struct Call {
  const at::Tensor& self;    // the numbers that stand for logits: (C) or (N, C, d1, ..., dK)
  const at::Tensor& target;  // class indices or class probabilities
  const at::Tensor& weight;  // this and those below are undefined where none was given
  const Options& options;
  const at::Tensor& row_weight = undefined();  // a factor a row
  const at::Tensor& normalizer = undefined();  // one number: what a mean divides by
  const ClassSlice* slice = nullptr;           // null: all classes are here
  // One double, of smoothed class indices: the sum of the class weights, where somebody has it (no
  // operator of all classes takes it). Of a slice always: in forward of its classes, in backward of
  // all.
  const at::Tensor& weight_sum = undefined();

  Call at(const at::Tensor& logits) const {
    return {logits, target, weight, options, row_weight, normalizer, slice, weight_sum};
  }
  Call with(const Options& others) const {
    return {self, target, weight, others, row_weight, normalizer, slice, weight_sum};
  }
};

}  // namespace fused_ce
