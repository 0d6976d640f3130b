// The operators. cross_entropy is the public one, with exactly the arguments of
// aten::cross_entropy_loss; the two private ones are what a graph of it consists of.
#include <torch/library.h>

TORCH_LIBRARY(fused_ce, m) {
  m.def(
      "cross_entropy(Tensor self, Tensor target, Tensor? weight=None, int reduction=1, SymInt "
      "ignore_index=-100, "
      "float label_smoothing=0.0) -> Tensor",
      {at::Tag::pt2_compliant_tag});
  // self: (N, C, d1, ..., dK). saved: (3, rows), see kernels/problem.h. total_weight: what a mean
  // divides by, a double. dtype: of the loss.
  m.def(
      "_forward(Tensor self, Tensor target, Tensor? weight, int reduction, SymInt ignore_index, "
      "float label_smoothing, ScalarType dtype) -> (Tensor loss, Tensor saved, Tensor "
      "total_weight)",
      {at::Tag::pt2_compliant_tag});
  m.def(
      "_backward(Tensor grad_output, Tensor self, Tensor target, Tensor? weight, int reduction, "
      "SymInt ignore_index, "
      "float label_smoothing, Tensor saved, Tensor total_weight) -> Tensor",
      {at::Tag::pt2_compliant_tag});
}
