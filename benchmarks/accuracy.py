"""Errors of cross entropy on the CPU in ulp, fused_ce beside torch, against extended precision.

Worst and mean over many rows of a row's loss, of the gradient at its target, and of the gradient
elsewhere (in ulp of the larger of the two numbers whose difference it is); and of the mean and the
sum of a million rows. The type's own rounding alone gives a worst error of 0.5.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import accuracy_chart
import fused_ce
import numpy as np
import torch
import torch.nn.functional as F
from accuracy_chart import MEASURES, Record, worst
from cases import DTYPES, Loss
from distributions import DISTRIBUTIONS, Rows, draw
from exact import Array, Exact, errors, exact, goal
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

LOSSES: dict[str, Loss] = {"fused_ce": fused_ce.cross_entropy, "torch": F.cross_entropy}
CLASSES = [2, 10, 100, 1000, 32000, 1_000_000]
LOGITS = 2**18  # of a case; at least two rows
MANY_ROWS = 1_000_000


def summary(found: Array) -> Record | None:
    return {"worst": float(found.max()), "mean": float(found.mean())} if found.size else None


def measured(case: Rows, want: Exact, name: str) -> Record:
    x = case.logits.detach().requires_grad_()
    loss = LOSSES[name](x, case.target, reduction="none", **case.options)
    (grad,) = torch.autograd.grad(loss.sum(), x)
    result: Record = {"loss": summary(errors(loss, want.loss)), "negative": int((loss < 0).sum())}
    elsewhere = np.ones(grad.shape, dtype=bool)
    if not case.target.is_floating_point():
        at = (np.arange(len(x)), case.target.numpy())
        result["target"] = summary(errors(grad[at], want.grad[at], want.terms[at]))
        elsewhere[at] = False
    result["others"] = summary(
        errors(grad[torch.from_numpy(elsewhere)], want.grad[elsewhere], want.terms[elsewhere])
    )
    return result


def rows_of_all_kinds() -> list[Record]:
    cases = [(t, d, c) for t in DTYPES for d in DISTRIBUTIONS for c in CLASSES]
    records = []
    for dtype, distribution, classes in tqdm(cases):
        rows = max(2, LOGITS // max(classes, 16))
        case = draw(distribution, rows, classes, DTYPES[dtype])
        want = exact(*case)
        record: Record = {"dtype": dtype, "distribution": distribution, "C": classes}
        records.append(record | {name: measured(case, want, name) for name in LOSSES})
    return records


def many_rows() -> list[Record]:
    records = []
    for name, dtype in DTYPES.items():
        case = draw("normal", MANY_ROWS, 10, dtype)
        rows = exact(*case).loss
        for reduction, want in (("mean", rows.mean()), ("sum", rows.sum())):
            if want > torch.finfo(dtype).max:
                continue
            record: Record = {"dtype": name, "reduction": reduction, "rows": MANY_ROWS}
            for whose, loss in LOSSES.items():
                actual = loss(case.logits, case.target, reduction=reduction)
                record[whose] = float(errors(actual[None], np.array([want]))[0])
            records.append(record)
    return records


def misses(records: list[Record], totals: list[Record]) -> list[str]:
    """Where fused_ce is further off than it means to be, or, in gradients elsewhere, than torch."""
    found = []
    for r in records:
        case, most = (
            f"{r['dtype']}, {r['distribution']}, C = {r['C']}",
            goal(DTYPES[r["dtype"]], r["C"]),
        )
        indices = "target" in r["fused_ce"]
        for measure, words in MEASURES.items():
            ours, theirs = (worst([r], name, measure) for name in LOSSES)
            if ours > (max(most, theirs) if measure == "others" else most):
                found.append(f"{case}: {words} is off by {ours:.3g} ulp, torch's by {theirs:.3g}")
        if indices and r["fused_ce"]["negative"]:
            found.append(f"{case}: {r['fused_ce']['negative']} losses below 0")
    for r in totals:
        if r["fused_ce"] > goal(DTYPES[r["dtype"]], 1):
            found.append(f"{r['dtype']}, {r['reduction']}: off by {r['fused_ce']:.3g} ulp")
    return found


def short(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0e}".replace("e+0", "e").replace("e+", "e")


def tables(records: list[Record], totals: list[Record]) -> list[Table]:
    rows = Table(title="worst error in ulp over all C: fused_ce / torch")
    rows.add_column("distribution", no_wrap=True)
    for dtype in DTYPES:
        for measure in MEASURES:
            rows.add_column(f"{dtype} {measure}", justify="right")
    for distribution in DISTRIBUTIONS:
        cells = []
        for dtype in DTYPES:
            some = [r for r in records if (r["dtype"], r["distribution"]) == (dtype, distribution)]
            for measure in MEASURES:
                known = any(r["fused_ce"].get(measure) for r in some)
                pair = [short(worst(some, name, measure)) for name in LOSSES]
                cells.append(" / ".join(pair) if known else "")
        rows.add_row(distribution, *cells)
    reduced = Table(title=f"error in ulp of {MANY_ROWS:,} rows: fused_ce / torch")
    reduced.add_column("reduction")
    reduced.add_column("dtype")
    reduced.add_column("ulp", justify="right")
    for r in totals:
        reduced.add_row(r["reduction"], r["dtype"], f"{short(r['fused_ce'])} / {short(r['torch'])}")
    return [rows, reduced]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/accuracy.json"))
    out: Path = parser.parse_args().out
    if np.finfo(np.longdouble).nmant < 63:
        raise SystemExit("extended precision is missing here: long double is no longer than double")
    machine = {"torch": torch.__version__, "fused_ce": fused_ce.build_info()}
    records, totals = rows_of_all_kinds(), many_rows()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(
        json.dumps({"machine": machine, "rows": records, "reductions": totals}, indent=1)
    )
    accuracy_chart.draw(out)
    console = Console(width=200)
    for table in tables(records, totals):
        console.print(table)
    missed = misses(records, totals)
    print("\n".join(missed) if missed else "every result is as exact as it should be")
    print(f"written: {out}")
    raise SystemExit(bool(missed))


if __name__ == "__main__":
    main()
