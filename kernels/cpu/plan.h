// SPDX-License-Identifier: BSD-3-Clause
// Which loop a problem takes, and how its rows are cut into tasks. It follows from the problem
// alone, never from the number of threads, so that sums are added up in the same order. The mirror
// of cuda/plan.h.
#pragma once

#include "few.h"
#include "flat.h"
#include "plane_tile.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

// Elements a task has at least: enough to be worth handing to a thread, few enough to share out
// evenly.
inline constexpr int64_t kTaskElements = 32768;
// Fewer neighbouring rows than this would leave the lanes of a tile mostly empty.
inline constexpr int64_t kNarrowestPlane = 8;

enum class Loop { kRows, kPlanes, kFew, kSingle };

// Rows [begin, end).
struct Range {
  int64_t begin, end;
};

// Rows are dealt out `task_rows` at a time, never across the end of a span of neighbouring rows.
struct Plan {
  Loop loop;
  int tile;           // rows a tile, unless the loop is over rows
  int64_t span;       // rows that lie in one piece
  int64_t task_rows;  // rows a task
  int64_t tasks_per_span;
  int64_t tasks;

  Range rows_of_task(int64_t task) const {
    const int64_t start = task / tasks_per_span * span;
    const int64_t begin = start + task % tasks_per_span * task_rows;
    return {begin, smaller(begin + task_rows, start + span)};
  }
};

// `few`: rows of so many classes have a loop of their own. `plain`: torch's loss is all that is
// asked for.
inline Loop loop_for(const Problem& p, const Strides& grad, int64_t few, bool plain) {
  const Strides& s = p.logits_strides;
  if (p.classes == 1)
    return plain && !is_slice(p) && p.z_loss_weight == 0 && !p.row_weight ? Loop::kSingle
                                                                          : Loop::kFew;
  if (p.classes > 0 && s.inner == 1 && grad.inner == 1 && s.classes != 1 &&
      p.inner >= kNarrowestPlane) {
    return Loop::kPlanes;
  }
  return p.classes <= few ? Loop::kFew : Loop::kRows;
}

inline Plan plan_of(const Problem& p, Loop loop) {
  static_assert(kFlatTile == kFewTile);
  Plan plan{};
  plan.loop = loop;
  plan.span = loop == Loop::kPlanes ? p.inner : rows_of(p);
  plan.tile = loop == Loop::kPlanes ? kPlaneTile : kFewTile;
  int64_t rows = kTaskElements / larger<int64_t>(p.classes, 1);
  if (loop == Loop::kRows) {
    rows = larger<int64_t>(rows, 1);
  } else {  // whole tiles
    rows = larger<int64_t>(rows / plan.tile, 1) * plan.tile;
  }
  plan.task_rows = rows;
  plan.tasks_per_span = (plan.span + rows - 1) / rows;
  plan.tasks = plan.span > 0 ? plan.tasks_per_span * (rows_of(p) / plan.span) : 0;
  return plan;
}

// Which tasks there are does not depend on what is asked for.
inline Plan forward_plan(const Problem& p, const Forward& out) {
  const bool plain = !out.statistics.lse && !wants_statistics(out);
  return plan_of(p, loop_for(p, p.logits_strides, kFewClasses, plain));
}
inline Plan backward_plan(const Problem& p, const Backward& back) {
  const bool plain = !back.grad_lse && !back.grad_entropy;
  return plan_of(p, loop_for(p, back.grad_strides, kFlatClasses, plain));
}

}  // namespace fused_ce::cpu::FUSED_CE_ISA
