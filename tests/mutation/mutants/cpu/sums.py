# SPDX-License-Identifier: BSD-3-Clause
"""Bugs in reading logits and adding up exponentials, in rows, short rows and planes."""

from __future__ import annotations

from mutants.mutant import Mutant

SUMS = [
    Mutant(
        "target's own term left in the sum (rows)",
        "cpu/rows.h",
        "limits_[kBlock] = kNone;",
        "limits_[kBlock] = -kNone;",
    ),
    Mutant(
        "target's own term left in the sum (few)",
        "cpu/few.h",
        "kept[c + k] = is_pivot ? splat(kNone) : square[k];",
        ";",
    ),
    Mutant(
        "target's logit not found (few)",
        "cpu/few.h",
        "pivot_logit = is_pivot ? square[k] : pivot_logit;",
        ";",
    ),
    Mutant(
        "target's own term left in the sum (planes)",
        "cpu/planes.h",
        "this->objective_.add_term_except(some, from, logits, is_pivot, q);",
        "this->objective_.add_term(some, from, logits, logits, q);",
    ),
    Mutant(
        "lost tail of a row",
        "cpu/rows.h",
        "    if (j < n) {\n      // The last",
        "    if (j < n - 1) {\n      // The last",
    ),
    Mutant(
        "tail of a row counted twice",
        "cpu/rows.h",
        "(lane >= static_cast<Int<A>>(j)) & (lane <",
        "(lane < static_cast<Int<A>>(n)) & (lane <",
    ),
    Mutant(
        "infinite logit twice in the tail",
        "cpu/rows.h",
        "(present ? logits(first) : from.m)",
        "logits(first)",
    ),
    Mutant(
        "only the last block counts",
        "cpu/sums.h",
        "exponentials.add(s.exponentials);",
        "exponentials = {}, exponentials.add(s.exponentials);",
    ),
    Mutant(
        "weights of another class",
        "cpu/objective.h",
        "weight(weight_ ? load(weight_ + c) :",
        "weight(weight_ ? load(weight_) :",
    ),
    Mutant(
        "row of the tile's start",
        "cpu/plane_tile.h",
        "base_ = row_offset(p_, p_.logits_strides, first);",
        "base_ = row_offset(p_, p_.logits_strides, 0);",
    ),
    Mutant(
        "overflow not noticed (long rows)",
        "cpu/rows.h",
        "if (!in_range(i)) sum_row",
        "if (false) sum_row",
    ),
    Mutant(
        "overflow not noticed (few)",
        "cpu/few.h",
        "if (kFromTarget && !all_in_range()) sum(",
        "if (false) sum(",
    ),
    Mutant(
        "overflow not noticed (planes)",
        "cpu/planes.h",
        "        !all_in_range()) {",
        "        false) {",
    ),
    Mutant(
        "far target not noticed",
        "cpu/planes.h",
        "- m < static_cast<A>(kFarTarget)",
        "- m < A(1e9)",
    ),
    Mutant(
        "another class than the largest left out (rows)",
        "cpu/blocks.h",
        "return static_cast<int>(b) + j + lane;",
        "return static_cast<int>(b) + j;",
    ),
    Mutant(
        "another class than the largest left out (few)",
        "cpu/few.h",
        "pivot = square[k] > m ?",
        "pivot = square[k] >= splat(A(0)) ?",
    ),
    Mutant(
        "another class than the largest left out (planes)",
        "cpu/planes.h",
        "pivot = x > m ?",
        "pivot = first == 0 && x > m ?",
    ),
    Mutant(
        "another class's limit", "cpu/rows.h", "limits_ + kBlock - y;", "limits_ + kBlock - y + 1;"
    ),
    Mutant("overlap's weights counted twice", "cpu/rows.h", "present ? q : V{}", "q"),
    Mutant("half of a row left out", "cpu/rows.h", "add_pair(second_half, j + 2 * kW);", ""),
    Mutant(
        "overflow not noticed (batches)",
        "cpu/rows.h",
        "} else if (!in_range(r)) {",
        "} else if (false) {",
    ),
    Mutant(
        "folded rows swapped",
        "cpu/transpose.h",
        "combine(interleave<0, kN>(a, b, All{})",
        "combine(interleave<0, kN>(b, a, All{})",
    ),
    Mutant(
        "transposed classes swapped",
        "cpu/transpose.h",
        "next[2 * i] = interleave<0, kN>(v[i], v[i + kN / 2], All{});",
        "next[2 * i] = interleave<0, kN>(v[i + kN / 2], v[i], All{});",
    ),
    Mutant(
        "target's logit not found (planes)",
        "cpu/planes.h",
        "pivot_logit = put_in(pivot_logit, is_pivot, logits);",
        ";",
    ),
    Mutant(
        "target's own term left in the sum (last plane)",
        "cpu/planes.h",
        "add_some(rest, k, logits, is_pivot, q);",
        "add_some(rest, k, logits, I{}, q);",
    ),
    Mutant(
        "target's own term left in the sum (sought)", "cpu/few.h", "      *at_pivot = kNone;\n", ""
    ),
    Mutant(
        "sums of double planes without their rounding errors",
        "cpu/state.h",
        "s = {load(p + i), load(lost + i)};",
        "s = {load(p + i), Vec<double>{}};",
    ),
    Mutant(
        "guess out of range kept (planes)",
        "cpu/planes.h",
        "sum(/*guess=*/false);",
        "sum(/*guess=*/p_.classes > kPlanes);",
    ),
]
