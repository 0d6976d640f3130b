# SPDX-License-Identifier: BSD-3-Clause
"""The worst rows of one loss and dtype, as JSON: how far off they are, and the draws they are from.

FUSED_CE_CPU_CAPABILITY=avx2 python benchmarks/worst_rows.py fused_ce float32
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import fused_ce
import numpy as np
import torch
import torch.nn.functional as F
from cases import DTYPES, Loss
from distributions import DISTRIBUTIONS, Rows, draw, loss_and_gradient
from exact import Array, Exact, errors, exact
from records import Record

T = TypeVar("T")
LOSSES: dict[str, Loss] = {"fused_ce": fused_ce.cross_entropy, "torch": F.cross_entropy}
# Sums of few terms, whose roundings do not average out, in every loop of the kernels: the worst of
# millions of rows are far out.
FEW = [2, 3, 4, 5, 8, 10, 16, 17, 24, 33, 48, 64, 100, 128, 300]
CLASSES = [*FEW, 1000, 32000, 1_000_000]
LOGITS = 2**18  # of a draw, at least two rows; few enough for the caches
DRAWS = {"float32": 16, "bfloat16": 2, "float16": 2, "float64": 2}  # of few classes
MANY_ROWS = 1_000_000
Errors = dict[str, dict[str, Array]]  # of each layout and measure, those of each row


def errors_of_rows(loss: Loss, case: Rows, want: Exact, layout: str) -> dict[str, Array]:
    """Of each measure, the worst error of each row."""
    losses, grad = loss_and_gradient(loss, case, transposed=layout == "planes")
    others = errors(grad, want.grad, want.terms)
    found = {"loss": errors(losses, want.loss)}
    if not case.target.is_floating_point():
        at = (np.arange(len(others)), case.target.numpy())
        found["target"] = others[at]
        others[at] = 0
    return found | {"others": others.max(1)}


def errors_of_loss(loss: Loss, case: Rows) -> Errors:
    want = exact(*case)
    return {layout: errors_of_rows(loss, case, want, layout) for layout in ("rows", "planes")}


def worst_of_draws(
    errors_of: Callable[[Rows], Errors], dtype: str, distribution: str, classes: int
) -> Record:
    """Of each measure, how far off the worst row was, and what draws that row again."""
    rows = max(2, LOGITS // classes)
    record: Record = {"dtype": dtype, "distribution": distribution, "C": classes, "rows": 0}
    for seed in range(DRAWS[dtype] if classes in FEW else 1):
        case = draw(distribution, rows, classes, DTYPES[dtype], seed)
        record["rows"] += rows
        for layout, measures in errors_of(case).items():
            for measure, found in measures.items():
                row = int(found.argmax())
                if measure not in record or found[row] > record[measure]["ulp"]:
                    draws = {"C": classes, "rows": rows, "seed": seed, "layout": layout, "row": row}
                    record[measure] = {"ulp": float(found[row]), **draws}
    return record


def reductions(loss: Loss, dtype: str) -> list[Record]:
    case = draw("normal", MANY_ROWS, 10, DTYPES[dtype])
    rows = exact(*case).loss
    records = []
    for reduction, want in (("mean", rows.mean()), ("sum", rows.sum())):
        if want <= torch.finfo(DTYPES[dtype]).max:
            actual = loss(case.logits, case.target, reduction=reduction)
            ulp = float(errors(actual[None], np.array([want]))[0])
            records.append({"dtype": dtype, "reduction": reduction, "ulp": ulp})
    return records


def of_dtype(loss: Loss, dtype: str) -> dict[str, list[Record]]:
    errors_of = partial(errors_of_loss, loss)
    rows = [worst_of_draws(errors_of, dtype, d, c) for d in DISTRIBUTIONS for c in CLASSES]
    return {"rows": rows, "reductions": reductions(loss, dtype)}


def main(
    about: str | None,
    candidates: dict[str, T],
    measured: Callable[[T, str], dict[str, list[Record]]],
) -> None:
    """Prints what is measured of the candidate and the dtype that the command line names."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("by", choices=candidates)
    parser.add_argument("dtype", choices=DTYPES)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = measured(candidates[args.by], args.dtype)
    by = "torch" if args.by == "torch" else fused_ce.build_info()["cpu_capability"]
    for records in found.values():
        for record in records:
            record["by"] = by
    print(json.dumps(found))


if __name__ == "__main__":
    main(__doc__, LOSSES, of_dtype)
