// The private operators on the CPU: describes the tensors to the kernels and shares the tasks out
// to torch's threads.
#include "../kernels/cpu/cpu.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Reduction.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/util/SmallVector.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "arguments.h"
#include "huge_pages.h"
#include "ops.h"

namespace fused_ce {
namespace {

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

struct Described {
  at::Tensor self, target, weight;  // what the pointers point into
  Problem problem{};
  bool as_plane = false;
  int64_t rows() const { return problem.outer * problem.inner; }
};

Described describe(const at::Tensor& self, const at::Tensor& target,
                   const std::optional<at::Tensor>& weight, int64_t ignore_index,
                   double label_smoothing) {
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

  p.weight_sum = static_cast<double>(p.classes);
  if (weight) {
    d.weight = weight->to(accumulate_type(self)).contiguous();
    p.weight = d.weight.const_data_ptr();
    if (label_smoothing > 0) p.weight_sum = d.weight.sum(at::kDouble).item<double>();
  }
  p.ignore_index = ignore_index;
  p.label_smoothing = label_smoothing;
  return d;
}

Saved saved_of(const at::Tensor& saved) {
  char* start = static_cast<char*>(saved.data_ptr());
  const int64_t step = saved.size(1) * static_cast<int64_t>(saved.element_size());
  return {start, start + step, start + 2 * step};
}

// Waking a sleeping thread takes as long as so many logits.
constexpr int64_t kLogitsOfAThread = 32768;

template <class F>
void for_tasks(const Problem& p, int64_t tasks, F f) {
  const int64_t logits = p.outer * p.inner * p.classes;
  if (logits <= 2 * kLogitsOfAThread) return f(0, tasks);
  at::parallel_for(0, tasks, tasks * kLogitsOfAThread / logits, f);
}

// Tensors of one number, written and read. at::full and item() would each be one more operator to
// dispatch, as dear as a small batch.
at::Tensor tensor_of(double value, const at::TensorOptions& options) {
  at::Tensor result = at::empty({}, options);
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kBFloat16, at::kHalf, result.scalar_type(), "fused_ce::_forward",
      [&] { *result.mutable_data_ptr<scalar_t>() = static_cast<scalar_t>(value); });
  return result;
}
double number_in(const at::Tensor& tensor) {
  TORCH_CHECK(tensor.numel() == 1, "fused_ce::_backward: expected one number, got shape ",
              tensor.sizes());
  double value = 0;
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kBFloat16, at::kHalf, tensor.scalar_type(), "fused_ce::_backward",
      [&] { value = static_cast<double>(*tensor.const_data_ptr<scalar_t>()); });
  return value;
}

[[noreturn]] void throw_out_of_range(const at::Tensor& target, int64_t row, int64_t classes,
                                     int64_t ignore_index) {
  const at::Tensor contiguous = target.contiguous();
  const int64_t value = contiguous.view(-1)[row].item<int64_t>();
  std::vector<int64_t> position(target.dim());
  for (int64_t d = target.dim() - 1; d >= 0; --d) {
    position[d] = row % target.size(d);
    row /= target.size(d);
  }
  TORCH_CHECK_INDEX(false, "Target ", value, " is out of bounds. target", at::IntArrayRef(position),
                    " is ", value, ", and must be in [0, ", classes, ") or equal to ignore_index (",
                    ignore_index, ")");
}

// The partial sums in task order, compensated as in kernels/cpu/sum.h (Neumaier, ZAMM 54, 1974).
Partial add_up(c10::ArrayRef<Partial> partials) {
  Partial sum{0, 0, kNoBadRow}, lost = sum;
  const auto add = [](double& sum, double& lost, double value) {
    const double s = sum + value;
    lost += std::abs(sum) >= std::abs(value) ? (sum - s) + value : (value - s) + sum;
    sum = s;
  };
  for (const Partial& partial : partials) {
    add(sum.loss, lost.loss, partial.loss);
    add(sum.weight, lost.weight, partial.weight);
    if (sum.bad_row < 0) sum.bad_row = partial.bad_row;
  }
  if (std::isfinite(sum.loss)) sum.loss += lost.loss;
  if (std::isfinite(sum.weight)) sum.weight += lost.weight;
  return sum;
}

ops::ForwardResult forward(const at::Tensor& self, const at::Tensor& target,
                           const std::optional<at::Tensor>& weight, int64_t reduction,
                           int64_t ignore_index, double label_smoothing, at::ScalarType dtype) {
  check_arguments(self, target, weight, reduction, ignore_index, label_smoothing,
                  /*same_weight_dtype=*/false);
  const Described d = describe(self, target, weight, ignore_index, label_smoothing);
  const bool probabilities = d.problem.target_kind == TargetKind::kProbabilities;
  const auto options = self.options();

  const at::Tensor saved = at::empty({3, d.rows()}, options.dtype(accumulate_type(self)));
  Forward out{};
  advise_huge_pages(saved.data_ptr(), saved.nbytes());
  out.saved = saved_of(saved);
  at::Tensor loss;
  if (reduction == at::Reduction::None) {
    c10::DimVector rows(self.sizes().begin(), self.sizes().end());
    rows.erase(rows.begin() + 1);
    loss = at::empty(rows, options.dtype(dtype));
    out.loss = loss.data_ptr();
    out.loss_dtype = kernel_type(dtype);
  }

  const cpu::Kernels& kernels = cpu::kernels(cpu::active());
  c10::SmallVector<Partial, 8> partials(kernels.forward_tasks(d.problem));
  for_tasks(d.problem, static_cast<int64_t>(partials.size()), [&](int64_t begin, int64_t end) {
    kernels.forward(d.problem, out, begin, end, partials.data());
  });

  const Partial sum = add_up(partials);
  if (sum.bad_row >= 0) throw_out_of_range(target, sum.bad_row, d.problem.classes, ignore_index);
  // torch counts the rows as logits / classes, which is no number where there are no classes.
  const double rows = static_cast<double>(self.numel()) / static_cast<double>(d.problem.classes);
  const double total_weight = probabilities ? rows : sum.weight;
  if (reduction == at::Reduction::Mean)
    loss = tensor_of(sum.loss / total_weight, options.dtype(dtype));
  if (reduction == at::Reduction::Sum) loss = tensor_of(sum.loss, options.dtype(dtype));
  return {loss, saved, tensor_of(total_weight, options.dtype(at::kDouble))};
}

at::Tensor backward(const at::Tensor& grad_output, const at::Tensor& self, const at::Tensor& target,
                    const std::optional<at::Tensor>& weight, int64_t reduction,
                    int64_t ignore_index, double label_smoothing, const at::Tensor& saved,
                    const at::Tensor& total_weight) {
  const Described d = describe(self, target, weight, ignore_index, label_smoothing);
  at::Tensor grad = at::empty_like(self);
  if (!collapses(grad)) grad = at::empty_like(self, at::MemoryFormat::Contiguous);
  advise_huge_pages(grad.data_ptr(), grad.nbytes());

  Backward out{};
  const at::Tensor numbers = saved.contiguous();
  out.saved = saved_of(numbers);
  out.grad_logits = grad.data_ptr();
  out.grad_strides = strides_of(grad, d.as_plane);
  at::Tensor rows;
  if (reduction == at::Reduction::None) {
    rows = grad_output.to(at::kDouble).contiguous();
    out.grad_rows = rows.const_data_ptr<double>();
  } else {
    out.grad = number_in(grad_output);
    if (reduction == at::Reduction::Mean) out.grad /= number_in(total_weight);
  }

  const cpu::Kernels& kernels = cpu::kernels(cpu::active());
  for_tasks(d.problem, kernels.backward_tasks(d.problem, out),
            [&](int64_t begin, int64_t end) { kernels.backward(d.problem, out, begin, end); });
  return grad;
}

}  // namespace

TORCH_LIBRARY_IMPL(fused_ce, CPU, m) {
  m.impl("_forward", forward);
  m.impl("_backward", backward);
}

}  // namespace fused_ce
