// SPDX-License-Identifier: BSD-3-Clause
// The entry points: plan, launch the kernels of the logits' type, reduce.
#include "launch.h"

#include "cuda.h"
#include "sums.cuh"
#include "total.cuh"

namespace fused_ce::cuda {
namespace {

int64_t partials_bytes(const Plan& plan) {
  const int64_t bytes = plan.blocks * static_cast<int64_t>(sizeof(Partial));
  return (bytes + 15) / 16 * 16;
}

int64_t slice_sums_bytes(DType type) {
  return type == DType::kDouble ? sizeof(RowSums<double, Terms::kGeneralProbabilities>)
                                : sizeof(RowSums<float, Terms::kGeneralProbabilities>);
}

}  // namespace

// Enough for either of the plans that a problem may have.
int64_t workspace_bytes(const Problem& p) {
  int64_t most = 0;
  for (const bool general : {false, true}) {
    const Plan plan = forward_plan(p, general);
    const int64_t slices =
        plan.loop == Loop::kSlices ? rows_of(p) * plan.slices * (kBlock / kWarp) : 0;
    const int64_t bytes = partials_bytes(plan) + slices * slice_sums_bytes(p.dtype);
    most = bytes > most ? bytes : most;
  }
  return most;
}

void forward(const Problem& p, const Forward& out, const Totals& totals, void* workspace,
             Stream stream) {
  const Plan plan = forward_plan(p, is_general(p, out));
  Partial* const partials = static_cast<Partial*>(workspace);
  void* const slice_sums = static_cast<char*>(workspace) + partials_bytes(plan);
  if (plan.blocks > 0) {
    switch (p.dtype) {
      case DType::kFloat:
        of_float::forward(p, out, plan, partials, slice_sums, stream);
        break;
      case DType::kDouble:
        of_double::forward(p, out, plan, partials, slice_sums, stream);
        break;
      case DType::kBFloat16:
        of_bfloat16::forward(p, out, plan, partials, slice_sums, stream);
        break;
      case DType::kHalf:
        of_half::forward(p, out, plan, partials, slice_sums, stream);
        break;
    }
  }
  if (!totals.loss && !totals.z_loss && !totals.total_weight) return;
  // torch counts the rows as logits / classes, which is no number where there are no classes.
  const double classes = static_cast<double>(p.classes);
  const double rows = static_cast<double>(rows_of(p)) * classes / classes;
  const bool weighted = p.target_kind != TargetKind::kProbabilities || p.row_weight;
  FUSED_CE_LAUNCH(total, dim3(1), dim3(kTotalBlock), 0, stream, partials, plan.blocks, weighted,
                  rows, loss_of_no_rows(p), totals);
}

void backward(const Problem& p, const Backward& back, Stream stream) {
  const Plan plan = backward_plan(p, back);
  if (plan.blocks == 0 || p.classes == 0) return;
  switch (p.dtype) {
    case DType::kFloat:
      return of_float::backward(p, back, plan, stream);
    case DType::kDouble:
      return of_double::backward(p, back, plan, stream);
    case DType::kBFloat16:
      return of_bfloat16::backward(p, back, plan, stream);
    case DType::kHalf:
      return of_half::backward(p, back, plan, stream);
  }
}

}  // namespace fused_ce::cuda
