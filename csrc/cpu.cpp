// SPDX-License-Identifier: BSD-3-Clause
// The private operators on the CPU: shares the kernels' tasks out to torch's threads.
#include "../kernels/cpu/cpu.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <c10/util/SmallVector.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "allocate.h"
#include "arguments.h"
#include "capability.h"
#include "compensated_sum.h"
#include "describe.h"
#include "device.h"
#include "floating_point_mode.h"
#include "out_of_range.h"

namespace fused_ce {
namespace {

// Waking a sleeping thread takes as long as so many logits.
constexpr int64_t kLogitsOfAThread = 32768;

template <class F>
void for_tasks(const Problem& p, int64_t tasks, F f) {
  const int64_t logits = p.outer * p.inner * p.classes;
  if (logits <= 2 * kLogitsOfAThread) return f(0, tasks);
  const FloatingPointMode callers;
  at::parallel_for(0, tasks, tasks * kLogitsOfAThread / logits, [&](int64_t begin, int64_t end) {
    const FloatingPointMode::Guard as_the_caller(callers);
    f(begin, end);
  });
}

// A tensor of one number.
at::Tensor tensor_of(double value, const at::Tensor& self, at::ScalarType dtype) {
  at::Tensor result = allocate({}, self, dtype);
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kBFloat16, at::kHalf, result.scalar_type(), "fused_ce::_forward",
      [&] { *result.mutable_data_ptr<scalar_t>() = static_cast<scalar_t>(value); });
  return result;
}

// The partial sums in task order.
Partial add_up(c10::ArrayRef<Partial> partials) {
  CompensatedSum loss, weight, z_loss;
  int64_t bad_row = kNoBadRow;
  for (const Partial& partial : partials) {
    loss.add(partial.loss);
    weight.add(partial.weight);
    z_loss.add(partial.z_loss);
    if (bad_row < 0) bad_row = partial.bad_row;
  }
  return {loss.total(), weight.total(), bad_row, z_loss.total()};
}

// Runs the kernels' tasks, and adds up what they found.
Partial run(const Problem& problem, const Forward& out) {
  const cpu::Kernels& kernels = cpu::kernels(active_capability());
  c10::SmallVector<Partial, 8> partials(kernels.forward_tasks(problem));
  for_tasks(problem, static_cast<int64_t>(partials.size()), [&](int64_t begin, int64_t end) {
    kernels.forward(problem, out, begin, end, partials.data());
  });
  return add_up(partials);
}

// Lanes of float hold class indices of as many bits.
void check_classes(const Problem& problem) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  TORCH_CHECK_NOT_IMPLEMENTED(problem.classes <= kMost, "fused_ce: input has ", problem.classes,
                              " classes, and on the CPU ", kMost, " are supported at most");
}

// What a mean divides by.
double total_weight_of(const Call& call, const Problem& p, const Partial& sum) {
  if (call.normalizer.defined()) return call.normalizer.item<double>();
  if (p.target_kind != TargetKind::kProbabilities || p.row_weight) return sum.weight;
  // torch counts the rows as logits / classes, which is no number where there are no classes.
  return static_cast<double>(call.self.numel()) / static_cast<double>(p.classes);
}

void forward(const Call& call, std::optional<at::ScalarType> dtype, bool save,
             ops::ForwardResult& result) {
  const at::ScalarType type = check_forward(call, dtype);
  const Described d = describe(call);
  check_classes(d.problem);
  const Forward out = allocate_rows(call, d, type, save, result);
  Partial sum = run(d.problem, out);
  sum.loss += loss_of_no_rows(d.problem);
  if (sum.bad_row >= 0)
    throw_out_of_range(call.target, sum.bad_row, d.problem.classes, d.problem.ignore_index);
  if (call.options.by_row()) return;
  if (call.options.is_mean()) {
    const double total_weight = total_weight_of(call, d.problem, sum);
    sum.loss /= total_weight;
    sum.z_loss /= total_weight;
    if (save) *result.total_weight.mutable_data_ptr<double>() = total_weight;
  }
  result.loss = tensor_of(sum.loss, call.self, type);
  if (call.options.wants(kZLoss)) result.z_loss = tensor_of(sum.z_loss, call.self, type);
}

void gradient(const ops::Gradients& grads, const Call& call, const at::Tensor& saved,
              const at::Tensor& total_weight, const at::Tensor& into) {
  const Described d = describe(call);
  check_classes(d.problem);
  const Given given = describe_backward(grads, call, d, saved, total_weight, into);

  const cpu::Kernels& kernels = cpu::kernels(active_capability());
  const bool streamed = cpu::is_streamed(d.problem);
  for_tasks(d.problem, kernels.backward_tasks(d.problem, given.back),
            [&](int64_t begin, int64_t end) {
              kernels.backward(d.problem, given.back, begin, end, streamed);
            });
}

void slice_sums(const Call& call, const at::Tensor& sums) {
  const Described d = describe(call);
  check_classes(d.problem);
  const Forward out = slice_forward(call, sums);
  if (const int64_t bad_row = run(d.problem, out).bad_row; bad_row >= 0)
    throw_out_of_range(call.target, bad_row, all_classes(d.problem), d.problem.ignore_index);
}

[[maybe_unused]] const bool kRegistered =
    (device::set_operators(c10::kCPU, {forward, gradient, slice_sums}), true);

}  // namespace
}  // namespace fused_ce
