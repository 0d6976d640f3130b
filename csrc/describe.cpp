#include "describe.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/scalar_tensor.h>

#include <utility>

#include "allocate.h"
#include "arguments.h"
#include "compensated_sum.h"
#include "shapes.h"

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

// Where a tensor's elements begin, all of them being there: a storage may have been freed since
// (sharded and offloaded training does that), and the kernels would read what is no longer its.
const void* address_of(const at::Tensor& t, const char* name) {
  if (t.numel() == 0) return t.storage().data();
  int64_t elements = t.storage_offset() + 1;
  for (int64_t d = 0; d < t.dim(); ++d) elements += (t.size(d) - 1) * t.stride(d);
  const size_t bytes = static_cast<size_t>(elements) * t.element_size();
  TORCH_CHECK(bytes <= t.storage().nbytes(),
              "The tensor has a non-zero number of elements, but its data is not allocated yet: ",
              name, " of shape ", t.sizes(), " ends at byte ", bytes, " of a storage that holds ",
              t.storage().nbytes());
  return t.const_data_ptr();
}

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

MaybeOwned collapsible(const at::Tensor& t) {
  return collapses(t) ? MaybeOwned::borrowed(t) : MaybeOwned::owned(t.contiguous());
}

// As (outer, classes, inner), each stride in elements. A matrix whose rows are neighbours is one
// plane a class.
Strides strides_of(const at::Tensor& t, bool as_plane) {
  const int64_t classes = t.stride(class_dim(t));
  if (t.dim() == 1) return {0, classes, 0};
  int64_t inner = 0;
  for (int64_t d = 2; d < t.dim(); ++d) {
    if (t.size(d) != 1) inner = t.stride(d);
  }
  if (as_plane) return {0, classes, t.stride(0)};
  return {t.stride(0), classes, inner};
}

Saved saved_of(const at::Tensor& saved) {
  char* start = static_cast<char*>(saved.data_ptr());
  const int64_t step = saved.size(1) * static_cast<int64_t>(saved.element_size());
  return {start, start + step, start + 2 * step};
}

// In double. at::sum cuts a long sum by the number of threads, and its roundings with it.
at::Tensor sum_of(const at::Tensor& weight) {
  if (!weight.is_cpu()) return weight.sum(at::kDouble);
  double sum = 0;
  AT_DISPATCH_FLOATING_TYPES(weight.scalar_type(), "sum_of", [&] {
    sum = compensated_sum(weight.const_data_ptr<scalar_t>(), weight.numel());
  });
  return at::scalar_tensor(sum, weight.options().dtype(at::kDouble));
}

void describe_weight(const Call& call, Described& d) {
  const at::ScalarType type = accumulate_type(call.self);  // `to` asks the dispatcher in any case
  address_of(call.weight, "weight");
  d.weight = call.weight.scalar_type() == type && call.weight.is_contiguous()
                 ? MaybeOwned::borrowed(call.weight)
                 : MaybeOwned::owned(call.weight.to(type).contiguous());
  d.problem.weight = d.weight->const_data_ptr();
  if (call.options.label_smoothing > 0) {
    d.weight_sum = sum_of(*d.weight);
    d.problem.weight_sum = d.weight_sum.const_data_ptr<double>();
  }
}

}  // namespace

Described describe(const Call& call) {
  const at::Tensor &self = call.self, &target = call.target;
  Described d;
  Problem& p = d.problem;
  p.logits = address_of(self, "input");
  p.target = address_of(target, "target");
  p.outer = self.dim() == 1 ? 1 : self.size(0);
  p.classes = self.size(class_dim(self));
  p.inner = 1;
  for (int64_t k = 2; k < self.dim(); ++k) p.inner *= self.size(k);

  d.self = collapsible(self);
  d.as_plane = self.dim() > 1 && p.inner == 1 && d.self->stride(1) != 1;
  if (d.as_plane) std::swap(p.outer, p.inner);
  if (!d.self.unsafeIsBorrowed()) p.logits = d.self->const_data_ptr();
  p.dtype = kernel_type(self.scalar_type());
  p.logits_strides = strides_of(*d.self, d.as_plane);

  if (is_probabilities(self, target)) {
    d.target = collapsible(target);
    p.target_kind = TargetKind::kProbabilities;
    p.target_dtype = kernel_type(target.scalar_type());
    p.target_strides = strides_of(*d.target, d.as_plane);
  } else {
    d.target = target.expect_contiguous();
    p.target_kind = target.scalar_type() == at::kByte ? TargetKind::kUInt8 : TargetKind::kInt64;
  }
  if (!d.target.unsafeIsBorrowed()) p.target = d.target->const_data_ptr();
  if (call.weight.defined()) describe_weight(call, d);
  p.ignore_index = call.options.ignore_index.guard_int(__FILE__, __LINE__);
  p.label_smoothing = call.options.label_smoothing;
  return d;
}

RowResults allocate_rows(const Call& call, const Described& d, at::ScalarType dtype, bool save) {
  RowResults results;
  const at::Tensor& self = call.self;
  if (save && call.options.is_mean()) {
    SavedNumbers numbers = allocate_saved(d.rows(), self, accumulate_type(self));
    results.saved = std::move(numbers.saved);
    results.total_weight = std::move(numbers.total_weight);
  } else if (save) {
    results.saved = allocate({3, d.rows()}, self, accumulate_type(self));
  }
  if (save) results.out.saved = saved_of(results.saved);
  if (call.options.by_row()) {
    results.loss = allocate(C10_AS_INTARRAYREF_SLOW(row_shape(self)), self, dtype);
    results.out.loss = results.loss.mutable_data_ptr();
    results.out.loss_dtype = kernel_type(dtype);
  }
  return results;
}

Gradient allocate_gradient(const at::Tensor& grad_output, const Call& call, const Described& d,
                           const at::Tensor& saved, const at::Tensor& total_weight) {
  Gradient gradient;
  address_of(grad_output, "grad_output");
  address_of(saved, "saved");
  gradient.logits = allocate_gradient_like(call.self);
  gradient.grad_output = grad_output.expect_contiguous();
  gradient.saved = saved.expect_contiguous();
  Backward& from = gradient.from;
  from.saved = saved_of(*gradient.saved);
  from.grad = gradient.grad_output->const_data_ptr();
  from.grad_dtype = kernel_type(grad_output.scalar_type());
  from.grad_stride = call.options.by_row() ? 1 : 0;
  if (call.options.is_mean())
    from.total_weight = static_cast<const double*>(address_of(total_weight, "total_weight"));
  from.grad_logits = gradient.logits.mutable_data_ptr();
  from.grad_strides = strides_of(gradient.logits, d.as_plane);
  return gradient;
}

}  // namespace fused_ce
