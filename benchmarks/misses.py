# SPDX-License-Identifier: BSD-3-Clause
"""Where accuracy.py finds fused_ce further off than it means to be."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter

import torch
from cases import DTYPES
from exact import goal, goal_elsewhere
from records import Record, of_ours, of_torch


def goal_of_loss(measure: str, dtype: torch.dtype, theirs: float) -> float:
    return goal_elsewhere(dtype, theirs) if measure == "others" else goal(dtype)


def misses(
    rows: list[Record],
    measures: dict[str, str],
    goal_of: Callable[[str, torch.dtype, float], float],
) -> list[str]:
    case = itemgetter("dtype", "distribution", "C")
    theirs = {case(r): r for r in of_torch(rows)}
    found = []
    for r in of_ours(rows):
        for measure in measures.keys() & r.keys():
            most = goal_of(measure, DTYPES[r["dtype"]], theirs[case(r)][measure]["ulp"])
            if r[measure]["ulp"] > most:
                words = f"{r['by']}, {r['dtype']}, {r['distribution']}: {measures[measure]}"
                found.append(f"{words}: {r[measure]}")
    return found


def misses_of_reductions(totals: list[Record]) -> list[str]:
    return [
        f"{r['by']}, {r['dtype']}: {r['reduction']}: {r['ulp']:.3g} ulp"
        for r in of_ours(totals)
        if r["ulp"] > goal(DTYPES[r["dtype"]])
    ]
