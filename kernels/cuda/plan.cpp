// SPDX-License-Identifier: BSD-3-Clause
#include "plan.h"

#include <stdint.h>

namespace fused_ce::cuda {
namespace {

// Blocks beyond these take turns: what a block leaves behind is read by one block in the end.
constexpr int64_t kMostBlocks = 16384;
// Fewer neighbouring rows than a warp has threads would leave it partly idle.
constexpr int64_t kNarrowestPlane = 32;
// Classes up to which a small team, and a warp, have a row. Adding up the sums of a block takes
// about as long as 2048 classes.
constexpr int64_t kSmallTeamClasses = 256, kWarpClasses = 4096;
// Rows that are enough to fill a GPU with a warp each.
constexpr int64_t kRowsOfWarps = 2048;
// Blocks that fill a GPU; a row is cut into slices where there are fewer rows than half of it.
constexpr int64_t kFullGpu = 1024;
constexpr int64_t kShortestSlice = 8192;

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Whether vectors of n neighbouring rows are aligned wherever they begin.
bool aligned(const void* base, const Strides& s, int64_t n, int64_t size) {
  return reinterpret_cast<uintptr_t>(base) % static_cast<uintptr_t>(n * size) == 0 &&
         s.outer % n == 0 && s.classes % n == 0;
}

// `grad`: the gradients, or forward the logits once more. The general loops, of which there is much
// code, have neither small teams nor neighbouring rows, and no slices beside probabilities.
Plan plan_of(const Problem& p, const void* grad, const Strides& grad_strides, bool general) {
  const Strides& s = p.logits_strides;
  const int64_t rows = rows_of(p), size = size_of(p.dtype);
  Plan plan{Loop::kFew, 0, 1, 1, p.classes, 0};
  int64_t rows_per_block = kFewRows;
  if (s.inner == 1 && grad_strides.inner == 1 && p.inner >= kNarrowestPlane && p.classes > 0) {
    plan.loop = Loop::kPlanes;
    const int64_t n = neighbours(size);
    if (!general && p.inner % n == 0 && aligned(p.logits, s, n, size) &&
        aligned(grad, grad_strides, n, size)) {
      plan.neighbours = static_cast<int>(n);
    }
    rows_per_block = kPlaneBlock * plan.neighbours;
  } else if (p.classes > kFewBytes / size) {
    plan.loop = Loop::kRows;
    const bool many = rows >= kRowsOfWarps || p.classes <= kWarpClasses / 4;
    plan.team = p.classes <= kSmallTeamClasses && !general ? kSmallTeam
                : p.classes <= kWarpClasses && many        ? kWarp
                                                           : kBlock;
    rows_per_block = kBlock / plan.team;
    const bool has_slices = !general || p.target_kind != TargetKind::kProbabilities;
    if (has_slices && rows < kFullGpu / 2 && p.classes >= 2 * kShortestSlice) {
      plan.loop = Loop::kSlices;
      const int64_t slices =
          smaller(ceil_div(p.classes, kShortestSlice), ceil_div(kFullGpu, rows > 0 ? rows : 1));
      plan.slice_classes = ceil_div(p.classes, slices);
      plan.slices = ceil_div(p.classes, plan.slice_classes);
    }
  }
  plan.blocks = smaller(ceil_div(rows, rows_per_block), kMostBlocks);
  return plan;
}

}  // namespace

Plan forward_plan(const Problem& problem, bool general) {
  return plan_of(problem, problem.logits, problem.logits_strides, general);
}

Plan backward_plan(const Problem& problem, const Backward& back) {
  const bool general = is_general(problem, back);
  Plan plan = plan_of(problem, back.grad_logits, back.grad_strides, general);
  if (general && plan.team == kBlock) {
    // A warp, not a block, has a piece of a long row: the general loops are there for warps alone.
    plan.team = kWarp;
    plan.slice_classes = ceil_div(problem.classes, ceil_div(problem.classes, kWarpClasses));
    plan.slices = ceil_div(problem.classes, plan.slice_classes);
    plan.blocks = smaller(ceil_div(rows_of(problem), kBlock / kWarp), kMostBlocks);
  }
  return plan;
}

}  // namespace fused_ce::cuda
