// SPDX-License-Identifier: BSD-3-Clause
#include "plan.h"

#include <stdint.h>

namespace fused_ce::cuda {
namespace {

// What tiles leave behind is read by one block in the end.
constexpr int64_t kMostTiles = 16384;
// Blocks of backward beyond these take turns.
constexpr int64_t kMostBlocks = 16384;
// Fewer neighbouring rows than a warp has threads would leave it partly idle.
constexpr int64_t kNarrowestPlane = 32;
// Up to which a small team, and a warp, have a row: what a row costs beside its classes is the less
// the fewer threads share it. Of few rows a small team would leave the GPU idle, so that it has
// those alone that are read in two rounds, of double in four.
constexpr int64_t kSmallTeamBytes = 512, kSmallTeamClasses = 1024, kWarpClasses = 4096;
static_assert(kWarpClasses < 1 << 30, "Count in row_reader.cuh");
// Rows that are enough to fill a GPU with a small team each, and a warp.
constexpr int64_t kRowsOfSmallTeams = 8192, kRowsOfWarps = 2048;
// Blocks that a GPU takes in several turns, so that those of the last one weigh little; rows are
// cut into slices where there are fewer than four for each block that it has at once.
constexpr int64_t kManyBlocks = 4096, kFewRowsOfBlocks = 1536;
constexpr int64_t kShortestSlice = 8192;
// Classes that a block of backward has at a time, for the same reason.
constexpr int64_t kLongestPiece = 16384;

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Whether vectors of n neighbouring rows are aligned wherever they begin.
bool aligned(const void* base, const Strides& s, int64_t n, int64_t size) {
  return reinterpret_cast<uintptr_t>(base) % static_cast<uintptr_t>(n * size) == 0 &&
         s.outer % n == 0 && s.classes % n == 0;
}

// A row into so many slices, or fewer that are as long.
void cut(Plan& plan, int64_t classes, int64_t slices) {
  plan.slice_classes = ceil_div(classes, slices);
  plan.slices = ceil_div(classes, plan.slice_classes);
}

// `grad`: the gradients, or forward the logits once more. The general loops, of which there is much
// code, have neither small teams nor neighbouring rows, and no slices beside probabilities.
Plan plan_of(const Problem& p, const void* grad, const Strides& grad_strides, bool general) {
  const Strides& s = p.logits_strides;
  const int64_t rows = rows_of(p), size = size_of(p.dtype);
  Plan plan{Loop::kFew, 0, 1, 1, p.classes, 0, 0, 0};
  int64_t rows_at_once = kFewRows;
  if (s.inner == 1 && grad_strides.inner == 1 && p.inner >= kNarrowestPlane && p.classes > 0) {
    plan.loop = Loop::kPlanes;
    const int64_t n = neighbours(size);
    if (!general && p.inner % n == 0 && aligned(p.logits, s, n, size) &&
        aligned(grad, grad_strides, n, size)) {
      plan.neighbours = static_cast<int>(n);
    }
    rows_at_once = kPlaneBlock * plan.neighbours;
  } else if (p.classes > kFewBytes / size) {
    plan.loop = Loop::kRows;
    const bool many = rows >= kRowsOfWarps || p.classes <= kWarpClasses / 4;
    const int64_t most = rows >= kRowsOfSmallTeams ? kSmallTeamClasses : kSmallTeamBytes / size;
    plan.team = p.classes <= most && !general       ? kSmallTeam
                : p.classes <= kWarpClasses && many ? kWarp
                                                    : kBlock;
    rows_at_once = block_of(plan.team) / plan.team;
    const bool has_slices = !general || p.target_kind != TargetKind::kProbabilities;
    if (has_slices && rows < kFewRowsOfBlocks && p.classes >= 2 * kShortestSlice) {
      plan.loop = Loop::kSlices;
      cut(plan, p.classes,
          smaller(ceil_div(p.classes, kShortestSlice), ceil_div(kManyBlocks, rows > 0 ? rows : 1)));
    }
  }
  plan.blocks = smaller(ceil_div(rows, rows_at_once), kMostBlocks);
  plan.tile_rows = rows_at_once;
  // So that there are fewer tiles, and yet enough of them: each costs its sums.
  const int64_t largest = plan.team == kBlock ? plan.tile_rows : plan.team == kWarp ? kWarp : rows;
  while (plan.tile_rows < largest && rows >= 2 * plan.tile_rows * kManyBlocks) plan.tile_rows *= 2;
  const int64_t times = ceil_div(ceil_div(rows, plan.tile_rows), kMostTiles);
  if (times > 1) plan.tile_rows *= times;
  plan.tiles = ceil_div(rows, plan.tile_rows);
  return plan;
}

}  // namespace

Plan forward_plan(const Problem& problem, bool general) {
  return plan_of(problem, problem.logits, problem.logits_strides, general);
}

Plan backward_plan(const Problem& problem, const Backward& back) {
  const bool general = is_general(problem, back);
  Plan plan = plan_of(problem, back.grad_logits, back.grad_strides, general);
  if (plan.team == kBlock) {
    const int64_t longest = general ? kWarpClasses : kLongestPiece;
    const int64_t pieces = ceil_div(problem.classes, longest);
    if (general || pieces > plan.slices) cut(plan, problem.classes, pieces);
    // A warp, not a block, has a piece of a long row: the general loops are there for warps alone.
    if (general) plan.team = kWarp;
  }
  return plan;
}

}  // namespace fused_ce::cuda
