# SPDX-License-Identifier: BSD-3-Clause
"""Draw README's chart from what bench.py and linear.py measured: six cases, to read on a phone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, MultipleLocator
from records import Record
from style import COLOURS, FOR_PHONES, GREY, OURS

RESULTS = Path("benchmarks/results")
PHASE = "forward+backward"
# What it is, and where it was measured: file, shape, dtype.
CASES = [
    ("10 classes", "cpu", "32x10", "float32"),
    ("1000 classes", "cpu", "64x1000", "float32"),
    ("Segmentation", "cpu", "8x21x512x512", "float32"),
    ("Language model", "cpu", "2048x32000", "float32"),
    ("Language model", "cpu", "512x128256", "bfloat16"),
    ("With the last layer", "linear", "4096x1024x32000", "float32"),
]


def find(records: list[Record], shape: str, dtype: str) -> Record:
    """On all cores, where it was measured on one as well."""
    found = [r for r in records if r["shape"] == shape and r["dtype"] == dtype]
    return max(found, key=lambda r: int(r["threads"]))


def row(axes: Any, y: int, times: Record, peaks: Record | None) -> None:
    """Times, and torch's peak of memory where it was measured, as multiples of ours."""
    ours = times["fused_ce"]["median"]
    eager, compiled = (times[name]["median"] / ours for name in ("eager", "compile"))
    axes.barh(y, eager, 0.4, color=COLOURS[0], label="torch")
    axes.plot(
        *(compiled, y, "D"), color=COLOURS[4], mec="white", markersize=11, label="torch.compile"
    )
    text = f"{eager:.1f}×"
    if peaks:
        text += f", memory {peaks['eager'] / peaks['fused_ce']:.0f}×"
    axes.vlines(1, y - 0.24, y + 0.24, color=OURS, linewidth=4, label="fused_ce")
    axes.annotate(text, (eager, y), (6, 0), textcoords="offset points", va="center")


def size(measured: Record, file: str) -> str:
    *rows, classes = measured["shape"].split("x")
    between = " → " if file == "linear" else " × "
    threads = ", 1 thread" if measured["threads"] == 1 else ""
    return f"{' × '.join(rows)}{between}{classes} {measured['dtype']}{threads}"


def main() -> None:
    plt.rcParams.update(FOR_PHONES)
    results = {f: json.loads((RESULTS / f"{f}.json").read_text()) for f in ("cpu", "linear")}
    figure, axes = plt.subplots(figsize=(7.2, 7.8))
    for y, (what, file, *case) in enumerate(CASES):
        measured = find(results[file]["records"], *case)
        peaks = measured.get(f"{PHASE} peak bytes")
        if file == "linear":
            peaks = find(results[file]["memory"], *case)["peak bytes"]
        row(axes, y, measured[PHASE], peaks)
        axes.text(0, y - 0.28, what, weight="bold", va="bottom")
        axes.text(10, y - 0.28, size(measured, file), ha="right", va="bottom", color=GREY, size=13)
    axes.set(xlim=(0, 10), ylim=(len(CASES) - 0.65, -0.65), yticks=[])
    axes.xaxis.set_major_locator(MultipleLocator(2))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}×"))
    axes.spines["left"].set_visible(False)
    named = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    order = ("fused_ce", "torch", "torch.compile")
    figure.suptitle("Time of forward and backward, ours = 1×", y=0.985, size=17, weight="bold")
    figure.legend(
        [named[name] for name in order],
        order,
        loc="center",
        ncols=3,
        frameon=False,
        bbox_to_anchor=(0.5, 0.92),
    )
    about = results["cpu"]["machine"]
    torch = about["torch"].partition("+")[0]
    caption = f"{about['processor']}, {about['cores']} cores, torch {torch}; medians"
    figure.text(0.5, 0.015, caption, ha="center", color=GREY, size=13)
    figure.subplots_adjust(left=0.03, right=0.955, top=0.89, bottom=0.095)
    out = RESULTS / "readme.png"
    figure.savefig(out, dpi=100)
    print(f"written: {out}")


if __name__ == "__main__":
    main()
