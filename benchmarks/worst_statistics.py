# SPDX-License-Identifier: BSD-3-Clause
"""The worst rows of a loss head, as worst_rows.py has those of the loss.

FUSED_CE_CPU_CAPABILITY=avx2 python benchmarks/worst_statistics.py fused_ce float32
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from capped_errors import SINGLE, capped_singles, errors_of_capped
from exact import goal, goal_elsewhere
from head_errors import errors_from_one_up, errors_of_statistics
from heads import HEADS, Head
from records import Record
from worst_rows import CLASSES, main, worst_of_draws

STATISTICS_DTYPES = ["float32", "bfloat16", "float64"]
# Leads of 0 to 100 cost torch's composition all digits of the entropy. From 1 up, lse is far from
# 0, where it cancels.
DRAWN = {
    "confident": "confident",
    "confident, from 1 up": "confident",
    "normal": "normal",
    "normal, from 1 up": "normal",
}
CAPPED = "capped"
DISTRIBUTIONS = [*DRAWN, CAPPED, SINGLE]


# In float32. Of lse, the last rounding and an exponential's ulp.
UNITS = {"entropy": 4.0, "lse": 1.5, "z-loss": 3.0, "confidence": 2.0}
UNITS |= {"capped lse": 4.0, "capped loss": 4.0}
# Of half types an exponential is off by a unit of float32 and by as many as its argument has, which
# is a logit up to 16, or what it lies below the largest. A statistic has two of them, and a sum.
SHORT, SHORT_FAR = 2 * (1 + 16) + 2, 2 * (1 + 80) + 2


def goal_of(measure: str, dtype: torch.dtype, theirs: float) -> float:
    """The most ulp that fused_ce may be off; statistics of half types are float32.

    Of float64 twice as much: float32 rows are finished in float64, those in their own type.
    Gradients are of the logits' own type, and to be as exact as those of the loss.
    """
    if measure.startswith("entropy, gradient"):  # which has the saved mean gap's rounding besides
        return goal_elsewhere(dtype, theirs) + 1
    if measure == "z-loss, gradient":
        return goal(dtype) if dtype == torch.bfloat16 else UNITS["z-loss"] * size(dtype)
    units = UNITS.get(measure, np.inf)
    if dtype == torch.bfloat16 and not measure.startswith("capped"):
        return units + {"entropy": SHORT_FAR, "z-loss": 2 * SHORT}.get(measure, SHORT)
    return units * size(dtype)


def size(dtype: torch.dtype) -> int:
    return 2 if dtype == torch.float64 else 1


def of_dtype(head: Head, dtype: str) -> dict[str, list[Record]]:
    # Of each distribution, what draws it and what measures it.
    measured = {
        name: (drawn, errors_from_one_up if name.endswith("up") else errors_of_statistics)
        for name, drawn in DRAWN.items()
    }
    measured[CAPPED] = ("confident", errors_of_capped)
    records = [
        worst_of_draws(partial(errors_of, head), dtype, drawn, classes) | {"distribution": name}
        for name, (drawn, errors_of) in measured.items()
        for classes in CLASSES
    ]
    return {"statistics": [*records, capped_singles(head, dtype)]}


if __name__ == "__main__":
    main(__doc__, HEADS, of_dtype)
