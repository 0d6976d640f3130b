// SPDX-License-Identifier: BSD-3-Clause
#include "describe.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/scalar_tensor.h>

#include <utility>

#include "allocate.h"
#include "arguments.h"
#include "compensated_sum.h"
#include "shapes.h"

namespace fused_ce {

// Dimensions 2.. are walked with a single stride.
bool collapses(const at::Tensor& t) {
  int64_t last = t.dim() - 1, expected = -1;
  for (; last >= 2; --last) {
    if (t.size(last) == 1) continue;
    if (expected >= 0 && t.stride(last) != expected) return false;
    expected = t.stride(last) * t.size(last);
  }
  return true;
}

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

Saved saved_of(const at::Tensor& saved, const Options& options, bool ranked) {
  char* start = static_cast<char*>(saved.data_ptr());
  const int64_t step = saved.size(1) * static_cast<int64_t>(saved.element_size());
  return {start, start + step, start + 2 * step,
          options.wants(kEntropy) ? start + 3 * step : nullptr, ranked};
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

// Of a tensor, if it is there, in the type and the order that the kernels read.
const void* in_order(const at::Tensor& tensor, at::ScalarType type, const char* name,
                     MaybeOwned& owner) {
  if (!tensor.defined()) return nullptr;
  address_of(tensor, name);
  owner = tensor.scalar_type() == type ? tensor.expect_contiguous()
                                       : MaybeOwned::owned(tensor.to(type).contiguous());
  return owner->const_data_ptr();
}

// Of a tensor that is checked, if it is there.
const double* doubles(const at::Tensor& t, const char* name) {
  return t.defined() ? static_cast<const double*>(address_of(t, name)) : nullptr;
}

void describe_weight(const Call& call, Described& d) {
  d.weight = class_weight_of(call);
  if (d.weight->defined()) d.problem.weight = d.weight->const_data_ptr();
  d.weight_sum = weight_sum_of(call, *d.weight);
  d.problem.weight_sum = doubles(d.weight_sum, "weight_sum");
}

void describe_slice(const ClassSlice& slice, Described& d) {
  d.problem.slice = {slice.first, slice.classes, doubles(slice.target_weight, "target_weight")};
}

TargetKind index_kind(at::ScalarType type) {
  switch (type) {
    case at::kInt:
      return TargetKind::kInt32;
    case at::kShort:
      return TargetKind::kInt16;
    case at::kChar:
      return TargetKind::kInt8;
    case at::kByte:
      return TargetKind::kUInt8;
    default:
      return TargetKind::kInt64;
  }
}

}  // namespace

MaybeOwned class_weight_of(const Call& call) {
  MaybeOwned weight;
  in_order(call.weight, accumulate_type(call.self), "weight", weight);
  return weight;
}

at::Tensor weight_sum_of(const Call& call, const at::Tensor& class_weight) {
  if (call.options.label_smoothing == 0 || is_probabilities(call.self, call.target)) return {};
  const bool is_known = call.weight_sum.defined() || !class_weight.defined();
  return is_known ? call.weight_sum : sum_of(class_weight);
}

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
    p.target_kind = index_kind(target.scalar_type());
  }
  if (!d.target.unsafeIsBorrowed()) p.target = d.target->const_data_ptr();
  describe_weight(call, d);
  p.ignore_index = call.options.ignore_index.guard_int(__FILE__, __LINE__);
  p.label_smoothing = call.options.label_smoothing;
  p.scale = call.options.scale();
  p.cap = call.options.cap();
  p.z_loss_weight = call.options.z_loss_weight;
  p.row_weight = in_order(call.row_weight, accumulate_type(self), "row_weight", d.row_weight);
  if (call.slice) describe_slice(*call.slice, d);
  return d;
}

Forward allocate_rows(const Call& call, const Described& d, at::ScalarType dtype, bool save,
                      ops::ForwardResult& result) {
  Forward out{};
  const at::Tensor& self = call.self;
  const Options& options = call.options;
  const at::ScalarType type = accumulate_type(self);
  if (save && options.is_mean()) {
    SavedNumbers numbers = allocate_saved({options.saved_numbers(), d.rows()}, self, type);
    result.saved = std::move(numbers.saved);
    result.total_weight = std::move(numbers.total_weight);
  } else if (save) {
    result.saved = allocate({options.saved_numbers(), d.rows()}, self, type);
  }
  if (save) {
    out.saved = saved_of(result.saved, options, options.wants_statistics());
    result.weight_sum = d.weight_sum;
  }

  const auto rows = [&](at::Tensor& numbers, at::ScalarType t) {
    numbers = allocate(C10_AS_INTARRAYREF_SLOW(row_shape(self)), self, t);
    return numbers.mutable_data_ptr();
  };
  if (options.by_row()) {
    out.loss = rows(result.loss, dtype);
    out.loss_dtype = kernel_type(dtype);
    if (options.wants(kZLoss)) out.statistics.z_loss = rows(result.z_loss, dtype);
  }
  if (options.wants(kLse)) out.statistics.lse = rows(result.lse, type);
  if (options.wants(kEntropy)) out.statistics.entropy = rows(result.entropy, type);
  if (options.wants(kPrediction)) {
    out.statistics.prediction = static_cast<int64_t*>(rows(result.prediction, at::kLong));
    out.statistics.confidence = rows(result.confidence, type);
  }
  return out;
}

Forward slice_forward(const Call& call, const at::Tensor& sums) {
  Forward out{};
  out.slice = {sums.mutable_data_ptr<double>(), call.options.wants(kEntropy),
               call.options.wants(kPrediction)};
  return out;
}

Given describe_backward(const ops::Gradients& grads, const Call& call, const Described& d,
                        const at::Tensor& saved, const at::Tensor& total_weight,
                        const at::Tensor& gradient) {
  Given given;
  Backward& back = given.back;
  const at::ScalarType type = accumulate_type(call.self);
  // Of one type, the loss's, which has two only where somebody has converted one of them.
  const at::Tensor& of_loss = grads.loss.defined() ? grads.loss : grads.z_loss;
  if (of_loss.defined()) {
    const at::ScalarType loss_type = of_loss.scalar_type();
    back.grad = in_order(grads.loss, loss_type, "grad_loss", given.loss);
    back.grad_z_loss = in_order(grads.z_loss, loss_type, "grad_z_loss", given.z_loss);
    back.grad_dtype = kernel_type(loss_type);
    back.grad_stride = call.options.by_row() ? 1 : 0;
  }
  back.grad_lse = in_order(grads.lse, type, "grad_lse", given.lse);
  back.grad_entropy = in_order(grads.entropy, type, "grad_entropy", given.entropy);
  address_of(saved, "saved");
  given.saved = saved.expect_contiguous();
  // A slice's loops always ask for statistics.
  back.saved = saved_of(*given.saved, call.options, call.slice || call.options.wants_statistics());
  if (call.options.is_mean())
    back.total_weight = static_cast<const double*>(address_of(total_weight, "total_weight"));
  back.grad_logits = gradient.mutable_data_ptr();
  back.grad_strides = strides_of(gradient, d.as_plane);
  return given;
}

}  // namespace fused_ce
