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

ops::ForwardResult forward(const Call& call, std::optional<at::ScalarType> dtype, bool save) {
  const at::ScalarType type = check_forward(call, dtype);
  const LaunchScope scope(call.self);
  const Described d = describe(call);
  RowResults rows = allocate_rows(call, d, type, save);
  ops::ForwardResult result{std::move(rows.loss), std::move(rows.saved),
                            std::move(rows.total_weight)};
  cuda::Totals totals{static_cast<Reduction>(call.options.reduction), nullptr, kernel_type(type),
                      nullptr};
  if (!call.options.by_row()) {
    result.loss = allocate({}, call.self, type);
    totals.loss = result.loss.mutable_data_ptr();
  }
  if (result.total_weight.defined())
    totals.total_weight = result.total_weight.mutable_data_ptr<double>();
  // The allocator hands it out again only to what comes later on this stream.
  const at::Tensor workspace = allocate({cuda::workspace_bytes(d.problem)}, call.self, at::kByte);

  cuda::forward(d.problem, rows.out, totals, workspace.mutable_data_ptr(), scope.stream());
  scope.check();
  return result;
}

at::Tensor backward(const at::Tensor& grad_output, const Call& call, const at::Tensor& saved,
                    const at::Tensor& total_weight) {
  check_backward(grad_output, call, saved, total_weight);
  const LaunchScope scope(call.self);
  const Described d = describe(call);
  const Gradient gradient = allocate_gradient(grad_output, call, d, saved, total_weight);

  cuda::backward(d.problem, gradient.from, scope.stream());
  scope.check();
  return gradient.logits;
}

[[maybe_unused]] const bool kRegistered =
    (device::set_operators(kLaunchDevice, {forward, backward}), true);

}  // namespace
}  // namespace fused_ce
