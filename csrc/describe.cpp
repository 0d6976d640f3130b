#include "describe.h"

#include <ATen/Dispatch.h>
#include <ATen/core/Reduction.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/scalar_tensor.h>

#include <utility>

#include "arguments.h"
#include "compensated_sum.h"
#include "gradient_storage.h"

namespace fused_ce {

DType kernel_type(at::ScalarType type) {
  switch (type) {
    case at::kDouble:
      return DType::kDouble;
    case at::kBFloat16:
      return DType::kBFloat16;
    case at::kHalf:
      return DType::kHalf;
    default:
      return DType::kFloat;
  }
}

namespace {

// Whether dimensions 2.. can be walked with a single stride.
bool collapses(const at::Tensor& t) {
  int64_t last = t.dim() - 1, expected = -1;
  for (; last >= 2; --last) {
    if (t.size(last) == 1) continue;
    if (expected >= 0 && t.stride(last) != expected) return false;
    expected = t.stride(last) * t.size(last);
  }
  return true;
}

at::Tensor collapsible(const at::Tensor& t) { return collapses(t) ? t : t.contiguous(); }

// As (outer, classes, inner), each stride in elements. A matrix whose rows are neighbours is one
// plane a class.
Strides strides_of(const at::Tensor& t, bool as_plane) {
  int64_t inner = 0;
  for (int64_t d = 2; d < t.dim(); ++d) {
    if (t.size(d) != 1) inner = t.stride(d);
  }
  if (as_plane) return {0, t.stride(1), t.stride(0)};
  return {t.stride(0), t.stride(1), inner};
}

// Pointers are taken from here on: one of another device would be read as this one's.
void check_device(const at::Tensor& self, const at::Tensor& tensor, const char* name) {
  TORCH_CHECK(tensor.device() == self.device(),
              "Expected all tensors to be on the same device, but ", name, " is on ",
              tensor.device(), " and input is on ", self.device());
}

Saved saved_of(const at::Tensor& saved) {
  char* start = static_cast<char*>(saved.data_ptr());
  const int64_t step = saved.size(1) * static_cast<int64_t>(saved.element_size());
  return {start, start + step, start + 2 * step};
}

// In double. at::sum cuts a long sum by the number of threads, and its roundings with it.
at::Tensor sum_of(const at::Tensor& weight) {
  if (!weight.is_cpu()) return weight.sum(at::kDouble);
  CompensatedSum sum;
  AT_DISPATCH_FLOATING_TYPES(weight.scalar_type(), "sum_of", [&] {
    const scalar_t* values = weight.const_data_ptr<scalar_t>();
    for (int64_t c = 0; c < weight.numel(); ++c) sum.add(static_cast<double>(values[c]));
  });
  return at::scalar_tensor(sum.total(), weight.options().dtype(at::kDouble));
}

}  // namespace

Described describe(const at::Tensor& self, const at::Tensor& target,
                   const std::optional<at::Tensor>& weight, int64_t reduction, int64_t ignore_index,
                   double label_smoothing) {
  check_arguments(self, target, weight, reduction, ignore_index, label_smoothing,
                  /*same_weight_dtype=*/false);
  Described d;
  Problem& p = d.problem;
  const bool probabilities = is_probabilities(self, target);
  d.self = collapsible(self);
  p.outer = self.size(0);
  p.classes = self.size(1);
  p.inner = 1;
  for (int64_t k = 2; k < self.dim(); ++k) p.inner *= self.size(k);
  d.as_plane = p.inner == 1 && d.self.stride(1) != 1;
  if (d.as_plane) std::swap(p.outer, p.inner);

  p.logits = d.self.const_data_ptr();
  p.dtype = kernel_type(self.scalar_type());
  p.logits_strides = strides_of(d.self, d.as_plane);

  d.target = probabilities ? collapsible(target) : target.contiguous();
  p.target = d.target.const_data_ptr();
  if (probabilities) {
    p.target_kind = TargetKind::kProbabilities;
    p.target_dtype = kernel_type(target.scalar_type());
    p.target_strides = strides_of(d.target, d.as_plane);
  } else {
    p.target_kind = target.scalar_type() == at::kByte ? TargetKind::kUInt8 : TargetKind::kInt64;
  }

  if (weight) {
    d.weight = weight->to(accumulate_type(self)).contiguous();
    p.weight = d.weight.const_data_ptr();
    if (label_smoothing > 0) {
      d.weight_sum = sum_of(d.weight);
      p.weight_sum = d.weight_sum.const_data_ptr<double>();
    }
  }
  p.ignore_index = ignore_index;
  p.label_smoothing = label_smoothing;
  return d;
}

ForwardResults forward_results(const at::Tensor& self, const Described& d, int64_t reduction,
                               at::ScalarType dtype) {
  ForwardResults results;
  const auto options = self.options();
  results.saved = at::empty({3, d.rows()}, options.dtype(accumulate_type(self)));
  results.out.saved = saved_of(results.saved);
  if (reduction == at::Reduction::None) {
    c10::DimVector rows(self.sizes().begin(), self.sizes().end());
    rows.erase(rows.begin() + 1);
    results.loss = at::empty(rows, options.dtype(dtype));
    results.out.loss = results.loss.data_ptr();
    results.out.loss_dtype = kernel_type(dtype);
  }
  return results;
}

BackwardResults backward_results(const at::Tensor& grad_output, const at::Tensor& self,
                                 const Described& d, int64_t reduction, const at::Tensor& saved,
                                 const at::Tensor& total_weight) {
  check_device(self, grad_output, "grad_output");
  check_device(self, saved, "saved");
  check_device(self, total_weight, "total_weight");
  const bool none = reduction == at::Reduction::None, mean = reduction == at::Reduction::Mean;
  const int64_t count = none ? d.rows() : 1;
  TORCH_CHECK(grad_output.numel() == count && at::isFloatingType(grad_output.scalar_type()),
              "fused_ce::_backward: grad_output: expected ", count,
              " floating point numbers, one for each loss, got ", grad_output.scalar_type(),
              " of shape ", grad_output.sizes());
  TORCH_CHECK(saved.numel() == 3 * d.rows() && saved.scalar_type() == accumulate_type(self),
              "fused_ce::_backward: saved: expected what _forward saved for these logits, got ",
              saved.scalar_type(), " of shape ", saved.sizes());
  TORCH_CHECK(!mean || (total_weight.numel() == 1 && total_weight.scalar_type() == at::kDouble),
              "fused_ce::_backward: total_weight: expected one number, a double, got ",
              total_weight.scalar_type(), " of shape ", total_weight.sizes());
  BackwardResults results;
  results.grad_logits = gradient_like(self);
  if (!collapses(results.grad_logits)) {
    results.grad_logits.reset();  // the next one may have its memory
    results.grad_logits = gradient_like(self, at::MemoryFormat::Contiguous);
  }
  results.grad_output = grad_output.contiguous();
  results.saved = saved.contiguous();
  results.total_weight = total_weight;
  Backward& out = results.out;
  out.saved = saved_of(results.saved);
  out.grad = results.grad_output.const_data_ptr();
  out.grad_dtype = kernel_type(grad_output.scalar_type());
  out.grad_stride = none ? 1 : 0;
  if (mean) out.total_weight = total_weight.const_data_ptr<double>();
  out.grad_logits = results.grad_logits.data_ptr();
  out.grad_strides = strides_of(results.grad_logits, d.as_plane);
  return results;
}

}  // namespace fused_ce
