// A call of the operator: its tensors, and what it asks for beside them.
//
// An option more is a field of Options and a word of kOptionsSchema here, the last of each; a check
// in arguments.cpp; its use in describe.cpp (the kernels' Problem) and derivatives.cpp; and an
// argument of the public functions, in C++ (fused_ce.h) and Python (functional.py, modules.py, and
// the direct way there, bindings.cpp). One that changes what a mean divides by is used in _vmap.py.
#pragma once

#include <ATen/core/Reduction.h>
#include <ATen/core/Tensor.h>
#include <c10/core/SymInt.h>

#include <cstdint>
#include <tuple>

namespace fused_ce {

struct Options {
  int64_t reduction = at::Reduction::Mean;
  c10::SymInt ignore_index = -100;
  double label_smoothing = 0.0;

  // All fields, in the order of kOptionsSchema.
  auto fields() { return std::tie(reduction, ignore_index, label_smoothing); }
  auto fields() const { return std::tie(reduction, ignore_index, label_smoothing); }

  bool by_row() const { return reduction == at::Reduction::None; }
  bool is_mean() const { return reduction == at::Reduction::Mean; }
};

inline constexpr char kOptionsSchema[] =
    "int reduction=1, SymInt ignore_index=-100, float label_smoothing=0.0";

// References alone: a call lives no longer than the arguments that it is made of.
struct Call {
  const at::Tensor& self;    // logits: (C) or (N, C, d1, ..., dK)
  const at::Tensor& target;  // class indices or class probabilities
  const at::Tensor& weight;  // undefined: none was given
  const Options& options;
};

}  // namespace fused_ce
