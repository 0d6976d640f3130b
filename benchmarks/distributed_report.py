# SPDX-License-Identifier: BSD-3-Clause
"""What a result file of distributed.py says: tables, and a chart of time beside ours."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from chart import bars, machine, quartiles
from distributed_model import (
    GATHER,
    GATHER_WITH_STATISTICS,
    REDUCE,
    REDUCE_WITH_STATISTICS,
    THREE,
    THREE_OF_HALF,
    Way,
    logits,
    reduces,
)
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from rich.console import Console
from rich.table import Table
from style import COLOURS, OURS
from timing import Record

PHASE = "forward+backward"
# Of each way: its name here, and its colour.
WAYS = {
    "fused_ce": ("fused_ce, distributed", OURS),
    "with statistics": ("with entropy, prediction", "#ee9f62"),
    "loss_parallel": ("torch's loss_parallel", COLOURS[0]),
    "three collectives": ("Megatron's three collectives", COLOURS[1]),
    "gathered logits": ("gather of the logits", COLOURS[2]),
    "one process": ("fused_ce, one process", COLOURS[5]),
}


def sizes_of(record: Record) -> tuple[int, int]:
    rows, classes = map(int, record["shape"].split("x"))
    return rows, classes


def name_of(record: Record, between: str = " ") -> str:
    rows, classes = sizes_of(record)
    return f"{rows} × {classes}{between}{record['dtype']}"


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.0f}" if seconds > 0.1 else f"{1e3 * seconds:.3g}"


def times_table(records: list[Record]) -> Table:
    result = Table(title=f"{PHASE}: medians, ours in ms (quartiles), the others over ours")
    result.add_column("rows × classes", no_wrap=True)
    result.add_column("processes,\nrounds", justify="right")
    for name in records[0][PHASE]:
        result.add_column(WAYS[name][0], justify="right", overflow="fold")
    for r in records:
        unit = r[PHASE]["fused_ce"]
        low, high = map(milliseconds, quartiles(unit))
        cells = [f"{milliseconds(unit['median'])} ({low}–{high})"]
        for name, times in r[PHASE].items():
            if name != "fused_ce":
                cells.append(f"{times['median'] / unit['median']:.2f}")
        result.add_row(name_of(r), f"{r['processes']}, {unit['rounds']}", *cells)
    return result


def model_of(name: str, record: Record) -> Way | None:
    """What the model says; torch's numbers of other dtypes are not in it."""
    rows, classes = sizes_of(record)
    size, item = record["processes"], {"float32": 4, "bfloat16": 2}.get(record["dtype"], 0)
    if name == "fused_ce":
        return REDUCE if reduces(size, rows) else GATHER
    if name == "with statistics":
        return REDUCE_WITH_STATISTICS if reduces(size, rows, 40) else GATHER_WITH_STATISTICS
    if name == "gathered logits":
        return logits(classes, size, item) if item else None
    return THREE_OF_HALF if name == "loss_parallel" and item == 2 else THREE


def traffic_table(records: list[Record]) -> Table:
    result = Table(
        title="a call, each process: collectives; bytes a row handed to them, received (model)"
    )
    result.add_column("rows × classes", no_wrap=True)
    result.add_column("processes", justify="right")
    names = list(records[0]["traffic"])
    for name in names:
        result.add_column(WAYS[name][0], justify="right", overflow="fold")
    for r in records:
        cells = []
        for name in names:
            t, way = r["traffic"][name], model_of(name, r)
            model = f"{way.on_ring(r['processes']):,.0f}" if way else "–"
            cells.append(f"{t['collectives']}; {t['handed']:,.0f}, {t['received']:,.1f} ({model})")
        result.add_row(name_of(r), str(r["processes"]), *cells)
    return result


def peaks_table(records: list[Record]) -> Table:
    result = Table(title="peak memory of a process beyond its logits and their gradient, MB")
    result.add_column("rows × classes", no_wrap=True)
    result.add_column("processes", justify="right")
    for name in records[0]["peak bytes"]:
        result.add_column(WAYS[name][0], justify="right", overflow="fold")
    for r in records:
        cells = [f"{size / 1e6:,.1f}" for size in r["peak bytes"].values()]
        result.add_row(name_of(r), str(r["processes"]), *cells)
    return result


def panel(axes: Any, records: list[Record], names: list[str]) -> None:
    """Bars start at 1, our time; whiskers reach to quartiles, a band around 1 to ours."""
    axes.set_xscale("log", base=2)
    at = [float(y) for y in range(len(records))]
    ours = np.array([quartiles(r[PHASE]["fused_ce"]) for r in records]).T
    units = np.array([r[PHASE]["fused_ce"]["median"] for r in records])
    axes.barh(at, (ours[1] - ours[0]) / units, 0.9, ours[0] / units, color=OURS, alpha=0.3)
    for i, name in enumerate(names):
        ratios = np.array([r[PHASE][name]["median"] for r in records]) / units
        bounds = np.array([quartiles(r[PHASE][name]) for r in records]).T / units
        drawn = bars(
            axes,
            at,
            list(ratios),
            *(i, len(names)),
            left=1,
            color=WAYS[name][1],
            xerr=abs(bounds - ratios),
            error_kw={"elinewidth": 0.8, "ecolor": "#444444"},
        )
        axes.bar_label(drawn, [f"{x:.1f}" if x >= 1 else f"{x:.2f}" for x in ratios], padding=3)
    axes.axvline(1, color=OURS, linewidth=2)
    axes.xaxis.set_major_locator(LogLocator(2, numticks=7))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: f"{x:g}×" if x >= 1 else f"1/{1 / x:g}×")
    )
    low, high = axes.get_xlim()
    axes.set_xlim(0.5 * min(low, 1), 1.5 * high)  # room for the numbers
    axes.set_yticks(at, [name_of(r, "\n") for r in records])
    axes.set_ylim(len(records) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.set_title(f"{records[0]['processes']} processes")


def draw(result: Record, out: Path) -> None:
    records = result["records"]
    groups = [
        [r for r in records if r["processes"] == size]
        for size in sorted({r["processes"] for r in records})
    ]
    names = [name for name in WAYS if name in records[0][PHASE] and name != "fused_ce"]
    lengths = [len(group) for group in groups]
    figure, axes = plt.subplots(
        len(groups),
        1,
        figsize=(6.4, 2.2 + 0.17 * len(names) * sum(lengths)),
        height_ratios=lengths,
        squeeze=False,
    )
    for each, group in zip(axes[:, 0], groups, strict=True):
        panel(each, group, names)
    axes[-1, 0].set_xlabel("time over that of fused_ce.distributed, medians (log scale)")
    inch = 1 / figure.get_figheight()
    figure.tight_layout(rect=(0, 1.15 * inch, 1, 1))
    figure.legend(
        handles=[Patch(color=WAYS[name][1], label=WAYS[name][0]) for name in names],
        loc="lower center",
        bbox_to_anchor=(0.5, 0.45 * inch),
        ncols=2,
        frameon=False,
    )
    about = f"whiskers, band: quartiles; {machine(result)}".replace(", torch ", ",\ntorch ")
    figure.text(0.5, 0.08 * inch, about, ha="center", color="#666666", fontsize=8)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def report(results: Path) -> None:
    result = json.loads(results.read_text())
    records = result["records"]
    console = Console(width=170)
    console.print(times_table(records))
    console.print(traffic_table(records))
    if with_peaks := [r for r in records if "peak bytes" in r]:
        console.print(peaks_table(with_peaks))
    console.print(machine(result), highlight=False)
    chart = results.with_suffix(".png")
    draw(result, chart)
    console.print(f"written: {results}, {chart}", highlight=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "results", type=Path, nargs="?", default=Path("benchmarks/results/distributed.json")
    )
    report(parser.parse_args().results)
