# SPDX-License-Identifier: BSD-3-Clause
"""Draw a result file of accuracy.py: how far off the worst row of each instruction set was."""

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
from records import MEASURES, Record, of_ours, of_torch
from style import COLOURS, OURS


def panel(axes: Any, records: list[Record], measure: str, dtype: torch.dtype) -> None:
    names = list(DISTRIBUTIONS)
    nothing = 2 / torch.finfo(dtype).eps  # no digit is right
    for name, some, colour, shift in (
        ("torch", of_torch(records), COLOURS[0], 0.15),
        ("fused_ce", of_ours(records), OURS, -0.15),
    ):
        measured = [r for r in some if measure in r]
        ulps = [min(max(r[measure]["ulp"], 0.1), nothing) for r in measured]
        heights = [names.index(r["distribution"]) + shift for r in measured]
        axes.scatter(ulps, heights, s=16, color=colour, label=name)
    if measure != "others":  # whose goal is torch's own error
        axes.axvline(goal(dtype), color="#666666", linewidth=1, linestyle=":")
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
    least, most = min(result["classes"]), max(result["classes"])
    sets = ", ".join(machine["fused_ce"]["cpu_capabilities"])
    caption = (
        f"the worst of all C from {least} to {most:,}; torch {machine['torch']}, a dot of fused_ce "
        f"for each of {sets}; dotted: the goal; left edge: 0.1 and less, right edge: no digit is "
        "right"
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
