// SPDX-License-Identifier: BSD-3-Clause
// The private operators on CUDA: allocate, launch on the current stream, return. Nothing waits for
// the GPU: reduced losses stay there, and a class index out of range is a device-side assertion.
#include "../kernels/cuda/cuda.h"

#include <ATen/core/Reduction.h>

#include <utility>

#include "allocate.h"
#include "arguments.h"
#include "cuda_stream.h"
#include "describe.h"
#include "device.h"

namespace fused_ce {
namespace {

static_assert(static_cast<int>(Reduction::kNone) == at::Reduction::None);
static_assert(static_cast<int>(Reduction::kMean) == at::Reduction::Mean);
static_assert(static_cast<int>(Reduction::kSum) == at::Reduction::Sum);

void launch_forward(const Call& call, const Problem& problem, const Forward& out,
                    const cuda::Totals& totals, const LaunchScope& scope) {
  // The allocator hands it out again only to what comes later on this stream.
  at::Tensor workspace;
  if (const int64_t bytes = cuda::workspace_bytes(problem, out, totals); bytes > 0)
    workspace = allocate({bytes}, call.self, at::kByte);
  void* const memory = workspace.defined() ? workspace.mutable_data_ptr() : nullptr;
  cuda::forward(problem, out, totals, memory, scope.stream());
  scope.check();
}

void forward(const Call& call, std::optional<at::ScalarType> dtype, bool save,
             ops::ForwardResult& result) {
  const at::ScalarType type = check_forward(call, dtype);
  const LaunchScope scope(call.self);
  const Described d = describe(call);
  const Forward out = allocate_rows(call, d, type, save, result);
  cuda::Totals totals{static_cast<Reduction>(call.options.reduction), nullptr, kernel_type(type),
                      nullptr};
  const auto number = [&](at::Tensor& tensor) {
    tensor = allocate({}, call.self, type);
    return tensor.mutable_data_ptr();
  };
  if (!call.options.by_row()) {
    totals.loss = number(result.loss);
    if (call.options.wants(kZLoss)) totals.z_loss = number(result.z_loss);
  }
  if (result.total_weight.defined())
    totals.total_weight = result.total_weight.mutable_data_ptr<double>();
  at::Tensor normalizer;
  if (call.normalizer.defined()) {
    normalizer = call.normalizer.to(call.self.device(), at::kDouble);
    totals.normalizer = normalizer.const_data_ptr<double>();
  }
  launch_forward(call, d.problem, out, totals, scope);
}

void gradient(const ops::Gradients& grads, const Call& call, const at::Tensor& saved,
              const at::Tensor& total_weight, const at::Tensor& into) {
  const LaunchScope scope(call.self);
  const Described d = describe(call);
  const Given given = describe_backward(grads, call, d, saved, total_weight, into);

  cuda::backward(d.problem, given.back, scope.stream());
  scope.check();
}

void slice_sums(const Call& call, const at::Tensor& sums) {
  const LaunchScope scope(call.self);
  const Described d = describe(call);
  const cuda::Totals no_totals{Reduction::kNone, nullptr, DType::kFloat, nullptr};
  launch_forward(call, d.problem, slice_forward(call, sums), no_totals, scope);
}

[[maybe_unused]] const bool kRegistered =
    (device::set_operators(kLaunchDevice, {forward, gradient, slice_sums}), true);

}  // namespace
}  // namespace fused_ce
