"""Draw a result file of accuracy.py: a dot for each C, how far off its worst row or element was."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from cases import DTYPES
from distributions import DISTRIBUTIONS
from exact import goal
from style import COLOURS, OURS

Record = dict[str, Any]
MEASURES = {
    "loss": "a row's loss",
    "target": "gradient at the target",
    "others": "gradient elsewhere",
}


def worst(records: list[Record], name: str, measure: str) -> float:
    return max((r[name][measure]["worst"] for r in records if r[name].get(measure)), default=0.0)


def panel(axes: Any, records: list[Record], measure: str, dtype: torch.dtype) -> None:
    names = list(DISTRIBUTIONS)
    nothing = 2 / torch.finfo(dtype).eps  # no digit is right
    for name, colour, shift in (("torch", COLOURS[0], 0.15), ("fused_ce", OURS, -0.15)):
        dots = [
            (
                min(max(worst([r], name, measure), 0.1), nothing),
                names.index(r["distribution"]) + shift,
            )
            for r in records
            if r[name].get(measure)
        ]
        axes.scatter(*zip(*dots, strict=True), s=16, color=colour, label=name)
    if measure != "others":  # whose goal is torch's own error
        axes.axvline(goal(dtype, 1), color="#666666", linewidth=1, linestyle=":")
    axes.set_xscale("log")


def draw(results: Path) -> None:
    result = json.loads(results.read_text())
    records, machine = result["rows"], result["machine"]
    figure, panels = plt.subplots(4, 3, figsize=(13, 13), sharex="row", sharey=True)
    for (name, dtype), line in zip(DTYPES.items(), panels, strict=True):
        for (measure, title), axes in zip(MEASURES.items(), line, strict=True):
            panel(axes, [r for r in records if r["dtype"] == name], measure, dtype)
            axes.set_title(f"{name}: {title}")
    panels[0, 0].set_yticks(range(len(DISTRIBUTIONS)), DISTRIBUTIONS)
    panels[0, 0].invert_yaxis()
    for axes in panels[-1]:
        axes.set_xlabel("worst error, ulp (log scale)")
    figure.tight_layout(rect=(0, 0.045, 1, 1))
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="lower center", ncols=2, frameon=False, bbox_to_anchor=(0.5, 0.018)
    )
    classes = sorted({r["C"] for r in records})
    caption = (
        f"a dot for each C from {classes[0]} to {classes[-1]:,}; torch {machine['torch']}, "
        f"fused_ce on {machine['fused_ce']['cpu_capability']}; dotted: the goal; "
        "left edge: 0.1 and less, right edge: no digit is right"
    )
    figure.text(0.5, 0.008, caption, ha="center", color="#666666", fontsize=8)
    out = results.with_suffix(".png")
    figure.savefig(out, dpi=90)
    print(f"written: {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "results", type=Path, nargs="?", default=Path("benchmarks/results/accuracy.json")
    )
    draw(parser.parse_args().results)
