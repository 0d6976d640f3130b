"""The worst rows of a loss head, as worst_rows.py has those of the loss.

FUSED_CE_CPU_CAPABILITY=avx2 python benchmarks/worst_statistics.py fused_ce float32
"""

from __future__ import annotations

import argparse
import json
from functools import partial

import fused_ce
import numpy as np
import torch
from capped_errors import SINGLE, capped_singles, errors_of_capped
from cases import DTYPES
from exact import goal, goal_elsewhere
from head_errors import errors_from_one_up, errors_of_statistics
from heads import HEADS, Head
from records import Record
from worst_rows import CLASSES, worst_of_draws

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


def goal_of(measure: str, dtype: torch.dtype, theirs: float) -> float:
    """The most ulp that fused_ce may be off; statistics of half types are float32.

    Gradients are of the logits' own type, and to be as exact as those of the loss.
    """
    if measure == "entropy, gradient at the largest":
        return goal(dtype)
    if measure == "entropy, gradient elsewhere":
        return goal_elsewhere(dtype, theirs)
    if measure == "z-loss, gradient":
        return min(3.0, goal(dtype))
    units = {"entropy": 4, "lse": 1, "z-loss": 3, "confidence": 2}
    units |= {"capped lse": 4, "capped loss": 4}
    return units.get(measure, np.inf)


def of_dtype(head: Head, dtype: str) -> list[Record]:
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
    return [*records, capped_singles(head, dtype)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("head", choices=HEADS)
    parser.add_argument("dtype", choices=DTYPES)
    args = parser.parse_args()
    torch.set_num_threads(1)
    records = of_dtype(HEADS[args.head], args.dtype)
    by = "torch" if args.head == "torch" else fused_ce.build_info()["cpu_capability"]
    print(json.dumps({"statistics": [{**record, "by": by} for record in records]}))


if __name__ == "__main__":
    main()
