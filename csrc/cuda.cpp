// The private operators on CUDA: allocate, launch on the current stream, return. Nothing waits for
// the GPU: reduced losses stay there, and a class index out of range is a device-side assertion.
#include "../kernels/cuda/cuda.h"

#include <ATen/core/Reduction.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "cuda_stream.h"
#include "describe.h"
#include "ops.h"

namespace fused_ce {
namespace {

static_assert(static_cast<int>(Reduction::kNone) == at::Reduction::None);
static_assert(static_cast<int>(Reduction::kMean) == at::Reduction::Mean);
static_assert(static_cast<int>(Reduction::kSum) == at::Reduction::Sum);

ops::ForwardResult forward(const at::Tensor& self, const at::Tensor& target,
                           const std::optional<at::Tensor>& weight, int64_t reduction,
                           int64_t ignore_index, double label_smoothing, at::ScalarType dtype) {
  const LaunchScope scope(self);
  const Described d = describe(self, target, weight, reduction, ignore_index, label_smoothing);
  ForwardResults results = forward_results(self, d, reduction, dtype);
  const auto options = self.options();
  const at::Tensor total_weight = at::empty({}, options.dtype(at::kDouble));
  cuda::Totals totals{static_cast<Reduction>(reduction), nullptr, kernel_type(dtype),
                      total_weight.mutable_data_ptr<double>()};
  if (reduction != at::Reduction::None) {
    results.loss = at::empty({}, options.dtype(dtype));
    totals.loss = results.loss.mutable_data_ptr();
  }
  // The allocator hands it out again only to what comes later on this stream.
  const at::Tensor workspace =
      at::empty({cuda::workspace_bytes(d.problem)}, options.dtype(at::kByte));

  cuda::forward(d.problem, results.out, totals, workspace.mutable_data_ptr(), scope.stream());
  scope.check();
  return {results.loss, results.saved, total_weight};
}

at::Tensor backward(const at::Tensor& grad_output, const at::Tensor& self, const at::Tensor& target,
                    const std::optional<at::Tensor>& weight, int64_t reduction,
                    int64_t ignore_index, double label_smoothing, const at::Tensor& saved,
                    const at::Tensor& total_weight) {
  const LaunchScope scope(self);
  const Described d = describe(self, target, weight, reduction, ignore_index, label_smoothing);
  const BackwardResults results =
      backward_results(grad_output, self, d, reduction, saved, total_weight);

  cuda::backward(d.problem, results.out, scope.stream());
  scope.check();
  return results.grad_logits;
}

}  // namespace

TORCH_LIBRARY_IMPL(fused_ce, FUSED_CE_CUDA_KEY, m) {
  m.impl("_forward", forward);
  m.impl("_backward", backward);
}

}  // namespace fused_ce
