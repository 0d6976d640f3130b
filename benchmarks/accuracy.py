"""Errors of cross entropy on the CPU in ulp, fused_ce beside torch, against extended precision.

Worst and mean over many rows of a row's loss, of the gradient at its target, and of the gradient
elsewhere (in ulp of the larger of the two numbers whose difference it is); and of the mean and the
sum of a million rows. The type's own rounding alone gives a worst error of 0.5.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import fused_ce
import matplotlib as mpl
import numpy as np
import torch
import torch.nn.functional as F
from cases import Loss
from distributions import DISTRIBUTIONS, Rows, draw
from exact import Array, Exact, errors, exact, goal
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

mpl.use("Agg")
import matplotlib.pyplot as plt

Record = dict[str, Any]
LOSSES: dict[str, Loss] = {"fused_ce": fused_ce.cross_entropy, "torch": F.cross_entropy}
COLOURS = {"fused_ce": "#d55e00", "torch": "#56b4e9"}
TYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
CLASSES = [2, 10, 100, 1000, 32000, 1_000_000]
MEASURES = {
    "loss": "a row's loss",
    "target": "gradient at the target",
    "others": "gradient elsewhere",
}
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
    cases = [(t, d, c) for t in TYPES for d in DISTRIBUTIONS for c in CLASSES]
    records = []
    for dtype, distribution, classes in tqdm(cases):
        rows = max(2, LOGITS // max(classes, 16))
        case = draw(distribution, rows, classes, TYPES[dtype])
        want = exact(*case)
        record: Record = {"dtype": dtype, "distribution": distribution, "C": classes}
        records.append(record | {name: measured(case, want, name) for name in LOSSES})
    return records


def many_rows() -> list[Record]:
    records = []
    for name, dtype in TYPES.items():
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


def worst(records: list[Record], name: str, measure: str) -> float:
    return max((r[name][measure]["worst"] for r in records if r[name].get(measure)), default=0.0)


def misses(records: list[Record], totals: list[Record]) -> list[str]:
    """Where fused_ce is further off than it means to be, or, in gradients elsewhere, than torch."""
    found = []
    for r in records:
        case, most = (
            f"{r['dtype']}, {r['distribution']}, C = {r['C']}",
            goal(TYPES[r["dtype"]], r["C"]),
        )
        indices = "target" in r["fused_ce"]
        for measure, words in MEASURES.items():
            ours, theirs = (worst([r], name, measure) for name in LOSSES)
            if ours > (max(most, theirs) if measure == "others" else most):
                found.append(f"{case}: {words} is off by {ours:.3g} ulp, torch's by {theirs:.3g}")
        if indices and r["fused_ce"]["negative"]:
            found.append(f"{case}: {r['fused_ce']['negative']} losses below 0")
    for r in totals:
        if r["fused_ce"] > goal(TYPES[r["dtype"]], 1):
            found.append(f"{r['dtype']}, {r['reduction']}: off by {r['fused_ce']:.3g} ulp")
    return found


def short(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0e}".replace("e+0", "e").replace("e+", "e")


def tables(records: list[Record], totals: list[Record]) -> list[Table]:
    rows = Table(title="worst error in ulp over all C: fused_ce / torch")
    rows.add_column("distribution", no_wrap=True)
    for dtype in TYPES:
        for measure in MEASURES:
            rows.add_column(f"{dtype} {measure}", justify="right")
    for distribution in DISTRIBUTIONS:
        cells = []
        for dtype in TYPES:
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


def draw_chart(records: list[Record], out: Path, caption: str) -> None:
    """A dot for each C: how far off the worst row or element was."""
    names = list(DISTRIBUTIONS)
    figure, panels = plt.subplots(4, 3, figsize=(13, 13), sharex="row", sharey=True)
    for dtype, line in zip(TYPES, panels, strict=True):
        some = [r for r in records if r["dtype"] == dtype]
        nothing = 2 / torch.finfo(TYPES[dtype]).eps  # no digit is right
        for (measure, title), axes in zip(MEASURES.items(), line, strict=True):
            for name, shift in (("torch", 0.15), ("fused_ce", -0.15)):
                dots = [
                    (
                        min(max(worst([r], name, measure), 0.1), nothing),
                        names.index(r["distribution"]) + shift,
                    )
                    for r in some
                    if r[name].get(measure)
                ]
                axes.scatter(*zip(*dots, strict=True), s=16, color=COLOURS[name], label=name)
            axes.axvline(goal(TYPES[dtype], 1), color="#666666", linewidth=1, linestyle=":")
            axes.set_xscale("log")
            axes.set_title(f"{dtype}: {title}", fontsize=10, weight="bold")
            axes.grid(color="#e4e4e4")
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
    panels[0, 0].set_yticks(range(len(names)), names)
    panels[0, 0].invert_yaxis()
    for axes in panels[-1]:
        axes.set_xlabel("worst error, ulp (log scale)")
    figure.tight_layout(rect=(0, 0.045, 1, 1))
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="lower center", ncols=2, frameon=False, bbox_to_anchor=(0.5, 0.018)
    )
    figure.text(0.5, 0.008, caption, ha="center", color="#666666", fontsize=8)
    figure.savefig(out, dpi=90)


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
    capability = fused_ce.build_info()["cpu_capability"]
    caption = (
        f"a dot for each C from {CLASSES[0]} to {CLASSES[-1]:,}; dotted: the goal of fused_ce; "
        f"torch {torch.__version__}, fused_ce on {capability}; "
        "left edge: 0.1 and less, right edge: no digit is right"
    )
    draw_chart(records, out.with_suffix(".png"), caption)
    console = Console(width=200)
    for table in tables(records, totals):
        console.print(table)
    missed = misses(records, totals)
    print("\n".join(missed) if missed else "every result is as exact as it should be")
    print(f"written: {out}, {out.with_suffix('.png')}")
    raise SystemExit(bool(missed))


if __name__ == "__main__":
    main()
