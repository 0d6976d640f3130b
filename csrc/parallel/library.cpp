// SPDX-License-Identifier: BSD-3-Clause
#include "library.h"

#include "composite.h"
#include "linear_slices.h"
#include "slices.h"
#include "unboxed.h"

namespace fused_ce::parallel {
namespace {

template <SumsFunction* sums, GradientFunction* gradient, LinearSumsFunction* linear_sums,
          LinearGradientFunction* linear_gradient>
void implement_private(torch::Library& m) {
  m.impl("_slice_sums", Unboxed::slice_sums<sums>);
  m.impl("_slice_backward", Unboxed::slice_backward<gradient>);
  m.impl("_slice_linear_sums", Unboxed::slice_linear_sums<linear_sums>);
  m.impl("_slice_linear_backward", Unboxed::slice_linear_backward<linear_gradient>);
}

}  // namespace

void define(const std::function<void(const std::string&)>& def) {
  const std::string loss = kLossSchema, logit = kLogitSchema, output = kOutputSchema;
  const std::string options = loss + ", " + logit + ", " + output;
  const std::string slice = kSliceSchema;
  const std::string processes = slice + ", " + kGroupSchema + ", str[]? row_groups=None";
  const std::string reduction =
      "Tensor? row_weight=None, Tensor? normalizer=None, ScalarType? dtype=None, ";
  const std::string results =
      "(Tensor loss, Tensor z_loss, Tensor lse, Tensor entropy, Tensor prediction, "
      "Tensor confidence)";
  def("parallel_cross_entropy_stats(Tensor self, Tensor target, Tensor? weight=None, " + loss +
      ", *, " + reduction + logit + ", " + output + ", " + processes + ") -> " + results);
  def("parallel_linear_cross_entropy_stats(Tensor self, Tensor linear_weight, Tensor target, *, "
      "Tensor? linear_bias=None, Tensor? weight=None, " +
      loss + ", " + reduction + logit + ", " + output + ", SymInt? chunk_rows=None, " + processes +
      ") -> " + results);
  def("_slice_sums(Tensor self, Tensor target, Tensor? weight, Tensor? weight_sum, " + options +
      ", *, " + slice + ") -> Tensor");
  def("_slice_backward(Tensor? grad_loss, Tensor? grad_lse, Tensor? grad_entropy, Tensor self, "
      "Tensor target, Tensor? weight, Tensor? target_weight, Tensor? weight_sum, Tensor saved, " +
      options + ", *, " + slice + ") -> Tensor");
  def("_slice_linear_sums(Tensor self, Tensor linear_weight, Tensor? linear_bias, Tensor target, "
      "Tensor? weight, Tensor? weight_sum, " +
      options + ", *, " + slice + ", SymInt chunk_rows=0) -> Tensor");
  def("_slice_linear_backward(Tensor? grad_loss, Tensor? grad_lse, Tensor? grad_entropy, "
      "Tensor self, Tensor linear_weight, Tensor? linear_bias, Tensor target, Tensor? weight, "
      "Tensor? target_weight, Tensor? weight_sum, Tensor saved, bool needs_input, "
      "bool needs_weight, bool needs_bias, " +
      options + ", *, " + slice +
      ", SymInt chunk_rows=0) -> (Tensor grad_input, Tensor grad_weight, Tensor grad_bias)");
}

void implement_composite(torch::Library& m) {
  m.impl("parallel_cross_entropy_stats", Unboxed::cross_entropy_stats<cross_entropy_stats>);
  m.impl("parallel_linear_cross_entropy_stats",
         Unboxed::linear_cross_entropy_stats<linear_cross_entropy_stats>);
}
void implement_meta(torch::Library& m) {
  implement_private<meta::slice_sums, meta::slice_backward, meta::slice_linear_sums,
                    meta::slice_linear_backward>(m);
}
void implement_device(torch::Library& m) {
  implement_private<device::slice_sums, device::slice_backward, device::slice_linear_sums,
                    device::slice_linear_backward>(m);
}

}  // namespace fused_ce::parallel
