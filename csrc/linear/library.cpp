// SPDX-License-Identifier: BSD-3-Clause
#include "library.h"

#include "autograd.h"
#include "composite.h"
#include "device.h"
#include "meta.h"
#include "unboxed.h"

namespace fused_ce::linear {
namespace {

template <ops::LossFunction* loss, ops::StatsFunction* stats>
void implement_public(torch::Library& m) {
  m.impl("linear_cross_entropy", Unboxed::linear_cross_entropy<loss>);
  m.impl("linear_cross_entropy_stats", Unboxed::linear_cross_entropy_stats<stats>);
}

template <ops::ForwardFunction* forward, ops::BackwardFunction* backward>
void implement_private(torch::Library& m) {
  m.impl("_linear_forward", Unboxed::forward<forward>);
  m.impl("_linear_backward", Unboxed::backward<backward>);
}

}  // namespace

void define(const std::function<void(const std::string&)>& def) {
  const std::string loss = kLossSchema, logit = kLogitSchema, output = kOutputSchema;
  const std::string options = loss + ", " + logit + ", " + output + ", SymInt chunk_rows=0";
  const std::string layer = "Tensor self, Tensor linear_weight, ";
  const std::string given = "Tensor target, *, Tensor? linear_bias=None, Tensor? weight=None, ";
  const std::string rows = "SymInt? chunk_rows=None";
  const std::string stats =
      "Tensor loss, Tensor z_loss, Tensor lse, Tensor entropy, Tensor prediction, "
      "Tensor confidence";
  const std::string needs = "bool needs_input, bool needs_weight, bool needs_bias, ";
  def("linear_cross_entropy(" + layer + given + loss + ", " + rows + ") -> Tensor");
  def("linear_cross_entropy_stats(" + layer + given + loss +
      ", Tensor? row_weight=None, Tensor? normalizer=None, ScalarType? dtype=None, " + logit +
      ", " + output + ", " + rows + ") -> (" + stats + ")");
  def("_linear_forward(" + layer +
      "Tensor? linear_bias, Tensor target, Tensor? weight, Tensor? row_weight, "
      "Tensor? normalizer, ScalarType? dtype, bool save, " +
      needs + options + ") -> (" + stats +
      ", Tensor saved, Tensor total_weight, Tensor grad_input, Tensor grad_weight, "
      "Tensor grad_bias)");
  def("_linear_backward(Tensor? grad_loss, Tensor? grad_z_loss, Tensor? grad_lse, "
      "Tensor? grad_entropy, " +
      layer +
      "Tensor? linear_bias, Tensor target, Tensor? weight, Tensor? row_weight, Tensor saved, "
      "Tensor total_weight, " +
      needs + options + ") -> (Tensor grad_input, Tensor grad_weight, Tensor grad_bias)");
}

void implement_composite(torch::Library& m) {
  implement_public<composite::linear_cross_entropy, composite::linear_cross_entropy_stats>(m);
}
void implement_autocast(torch::Library& m) {
  implement_public<composite::autocast_linear_cross_entropy,
                   composite::autocast_linear_cross_entropy_stats>(m);
}
void implement_autograd(torch::Library& m) {
  implement_private<autograd::forward, autograd::backward>(m);
}
void implement_meta(torch::Library& m) { implement_private<meta::forward, meta::backward>(m); }
void implement_device(torch::Library& m) {
  implement_private<device::forward, device::backward>(m);
}

}  // namespace fused_ce::linear
