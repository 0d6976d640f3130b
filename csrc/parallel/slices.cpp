// SPDX-License-Identifier: BSD-3-Clause
#include "slices.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include <limits>
#include <tuple>

#include "../../kernels/problem.h"
#include "../arguments.h"
#include "../device.h"
#include "../meta.h"
#include "../operator.h"
#include "../out_of_range.h"
#include "../shapes.h"
#include "unboxed.h"

namespace fused_ce::parallel {
namespace {

void check_doubles(const at::Tensor& tensor, const char* name, const at::Tensor& self,
                   c10::SymIntArrayRef shape) {
  TORCH_CHECK(tensor.defined() && tensor.layout() == at::kStrided &&
                  tensor.scalar_type() == at::kDouble && must_equal(tensor.sym_sizes(), shape) &&
                  TORCH_GUARD_OR_TRUE(tensor.sym_is_contiguous()),
              "fused_ce: ", name, ": expected contiguous doubles of shape ", shape);
  check_device(self, tensor, name);
}

bool has_classes(const Call& call) { return call.self.size(class_dim(call.self)) > 0; }

// What no classes come to. Their indices are looked at all the same: where one is out of range,
// every process has to say so, or the others would wait for it.
at::Tensor no_sums(const Call& call) {
  const at::Tensor& target = call.target;
  if (target.is_cpu() && !is_probabilities(call.self, target)) {
    const int64_t ignore_index = call.options.ignore_index.guard_int(__FILE__, __LINE__);
    const at::Tensor y = target.to(at::kLong).contiguous();
    for (int64_t i = 0; i < y.numel(); ++i) {
      const int64_t c = y.const_data_ptr<int64_t>()[i];
      if (c != ignore_index && (c < 0 || c >= call.slice->classes))
        throw_out_of_range(target, i, call.slice->classes, ignore_index);
    }
  }
  at::Tensor sums = at::zeros_symint({row_count(call.self), SliceSums::kNumbers},
                                     call.self.options().dtype(at::kDouble));
  sums.select(1, SliceSums::kLargest).fill_(-std::numeric_limits<double>::infinity());
  sums.select(1, SliceSums::kPrediction).fill_(static_cast<double>(call.slice->classes));
  return sums;
}

// f(call of the slice), of checked arguments.
template <class F>
at::Tensor with_sums(const ParallelCall& call, const at::Tensor& weight_sum, F f) {
  const ClassSlice slice = slice_of(call, undefined());
  const Call of_slice = call.call(&slice, weight_sum);
  check_forward(of_slice, at::kDouble);
  check_slice(call, weight_sum);
  return f(of_slice);
}
template <class F>
at::Tensor with_gradient(const ParallelCall& call, const WholeWeights& weights, F f) {
  check_slice(call, weights.weight_sum);
  check_target_weight(call, weights.target_weight);
  const ClassSlice slice = slice_of(call, weights.target_weight);
  return f(call.call(&slice, weights.weight_sum));
}

}  // namespace

bool is_smoothed(const ParallelCall& call) {
  return call.options.label_smoothing > 0 && !is_probabilities(call.self, call.target);
}

void check_slice(const ParallelCall& call, const at::Tensor& weight_sum) {
  TORCH_CHECK(call.options.by_row(), "fused_ce: a slice's losses are reduced after the exchange");
  const c10::SymInt own = call.self.sym_size(class_dim(call.self));
  const auto& [first, all] = std::tie(call.options.first_class, call.options.classes);
  TORCH_CHECK(first >= 0 && TORCH_GUARD_OR_TRUE(own.sym_le(all - first)), "fused_ce: input has ",
              own, " classes from first_class ", first, " on, which are not among ", all);
  if (is_smoothed(call)) check_doubles(weight_sum, "weight_sum", call.self, {});
}

ClassSlice slice_of(const ParallelCall& call, const at::Tensor& target_weight) {
  return {call.options.first_class, call.options.classes, target_weight};
}

void check_target_weight(const ParallelCall& call, const at::Tensor& target_weight) {
  if (is_probabilities(call.self, call.target)) return;
  check_doubles(target_weight, "target_weight", call.self, row_shape(call.self));
}

at::Tensor slice_sums(const ParallelCall& call, const at::Tensor& weight_sum) {
  static const auto op =
      find_operator<decltype(Unboxed::slice_sums<nullptr>)>("fused_ce::_slice_sums");
  return std::apply(
      [&](const auto&... fields) {
        return op.call(call.self, call.target, optional_if_defined(call.weight),
                       optional_if_defined(weight_sum), fields...);
      },
      call.options.slice_fields());
}

at::Tensor slice_backward(const ops::Gradients& grads, const ParallelCall& call,
                          const WholeWeights& weights, const at::Tensor& saved) {
  static const auto op =
      find_operator<decltype(Unboxed::slice_backward<nullptr>)>("fused_ce::_slice_backward");
  return std::apply(
      [&](const auto&... fields) {
        return op.call(optional_if_defined(grads.loss), optional_if_defined(grads.lse),
                       optional_if_defined(grads.entropy), call.self, call.target,
                       optional_if_defined(call.weight), optional_if_defined(weights.target_weight),
                       optional_if_defined(weights.weight_sum), saved, fields...);
      },
      call.options.slice_fields());
}

at::Tensor device::slice_sums(const ParallelCall& call, const at::Tensor& weight_sum) {
  return with_sums(call, weight_sum, [](const Call& of_slice) {
    return has_classes(of_slice) ? fused_ce::device::slice_sums(of_slice) : no_sums(of_slice);
  });
}

at::Tensor device::slice_backward(const ops::Gradients& grads, const ParallelCall& call,
                                  const WholeWeights& weights, const at::Tensor& saved) {
  return with_gradient(call, weights, [&](const Call& of_slice) {
    return has_classes(of_slice) ? fused_ce::device::backward(grads, of_slice, saved, undefined())
                                 : at::empty_like(of_slice.self);
  });
}

at::Tensor meta::slice_sums(const ParallelCall& call, const at::Tensor& weight_sum) {
  return with_sums(call, weight_sum, [](const Call& of_slice) {
    return at::empty_symint({row_count(of_slice.self), SliceSums::kNumbers},
                            of_slice.self.options().dtype(at::kDouble));
  });
}

at::Tensor meta::slice_backward(const ops::Gradients& grads, const ParallelCall& call,
                                const WholeWeights& weights, const at::Tensor& saved) {
  return with_gradient(call, weights, [&](const Call& of_slice) {
    return fused_ce::meta::backward(grads, of_slice, saved, undefined());
  });
}

}  // namespace fused_ce::parallel
