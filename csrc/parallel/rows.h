// SPDX-License-Identifier: BSD-3-Clause
// The losses and statistics of rows whose classes are shared out, one number a row, and their
// derivatives: what has to know of other processes. Everything else is made of these.
#pragma once

#include "whole.h"

namespace fused_ce::parallel {

// Differentiable by the logits, twice: loss, lse and entropy, double. Every process of the group
// has to call it, and gets the same bits.
RowResults rows_of(const ParallelCall& call);

// Where one process has all classes, the loss is what it is anyway: of these of its results, rows.
bool has_all_classes(const ParallelOptions& options, const c10::SymInt& own);
RowResults as_rows(const ops::ForwardResult& result, const at::Tensor& logits,
                   const ParallelCall& call);

// The sum of these classes' weights, one double, where smoothing spreads over them; else undefined.
at::Tensor own_weight_sum(const ParallelCall& call);

}  // namespace fused_ce::parallel
