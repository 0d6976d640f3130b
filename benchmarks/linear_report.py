# SPDX-License-Identifier: BSD-3-Clause
"""What a result file of linear.py says: tables, targets, and a chart of time beside memory."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
from chart import bars, machine
from layers import LARGE, PHASE, QUICK, Case
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from rich.console import Console
from rich.table import Table
from style import COLOURS, OURS
from timing import Record

# Of each way: its name here, and its colour.
WAYS = {
    "fused_ce": ("fused_ce", OURS),
    "with statistics": ("fused_ce, with entropy and prediction", "#ee9f62"),
    "each row": ("fused_ce, reduction none", "#f6cfb0"),
    "eager": ("torch eager", COLOURS[0]),
    "compile": ("torch.compile", COLOURS[1]),
    "torch chunked": ("torch's own, chunked", COLOURS[2]),
    "torch whole": ("torch's own, whole", COLOURS[4]),
    "Liger's chunks": ("Liger's chunks in torch", COLOURS[5]),
}


class Target(NamedTuple):
    cases: list[Case]
    name: str
    over: str
    at_most: float


TIMES = [
    Target(LARGE[:3], "fused_ce", "products", 1.15),
    Target([*LARGE, *QUICK], "fused_ce", "eager", 1),
    Target([*LARGE, *QUICK], "fused_ce", "compile", 1),
    Target(LARGE[4:], "fused_ce", "torch chunked", 1 / 4),
    Target(LARGE, "with statistics", "fused_ce", 1.05),
]
PEAKS = [
    Target(LARGE[2:3], "fused_ce", "eager", 1 / 3),
    Target(LARGE[3:4], "fused_ce", "eager", 1 / 30),
]


def name_of(case: Case, between: str = " ") -> str:
    shape, dtype = case
    rows, features, classes = shape.split("x")
    return f"{rows} × {features} → {classes}{between}{dtype}"


def case_of(record: Record) -> Case:
    return record["shape"], record["dtype"]


def medians(record: Record) -> dict[str, float]:
    return {name: times["median"] for name, times in record[PHASE].items()}


def minima(record: Record) -> dict[str, float]:
    return {name: times["min"] for name, times in record[PHASE].items()}


def peaks(record: Record) -> dict[str, float]:
    found: dict[str, float] = record["peak bytes"]
    return found


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.0f}" if seconds > 0.1 else f"{1e3 * seconds:.3g}"


def times_table(records: list[Record]) -> Table:
    result = Table(title=f"{PHASE}: time over the three products, of medians (of minima)")
    result.add_column("rows × features → classes", no_wrap=True)
    result.add_column("threads,\nrounds", justify="right")
    result.add_column("products,\nms", justify="right")
    names = [name for name in records[0][PHASE] if name != "products"]
    for name in names:
        result.add_column(WAYS[name][0], justify="right")
    for r in records:
        unit = r[PHASE]["products"]
        row = [
            name_of(case_of(r)),
            f"{r['threads']}, {unit['rounds']}",
            milliseconds(unit["median"]),
        ]
        for name in names:
            median, least = (r[PHASE][name][key] / unit[key] for key in ("median", "min"))
            row.append(f"{median:.2f} ({least:.2f})")
        result.add_row(*row)
    return result


def peaks_table(memory: list[Record]) -> Table:
    result = Table(title="peak memory beyond weights, inputs and their gradients, MB")
    result.add_column("rows × features → classes", no_wrap=True)
    for name in memory[0]["peak bytes"]:
        result.add_column(WAYS[name][0], justify="right")
    for r in memory:
        result.add_row(
            name_of(case_of(r)),
            *(f"{size / 1e6:.0f}" for size in r["peak bytes"].values()),
        )
    return result


def judged(result: Record) -> list[str]:
    """What was aimed at, and the worst that came of it. Of times, the minima as well: of few rounds
    they tell more.
    """
    said = []
    for targets, records, numbers in (
        (TIMES, result["records"], (medians, minima)),
        (PEAKS, result["memory"], (peaks, peaks)),
    ):
        for cases, name, over, at_most in targets:
            found = [
                (*(n(r)[name] / n(r)[over] for n in numbers), name_of(case_of(r)), r["threads"])
                for r in records
                if case_of(r) in cases and over in numbers[0](r)
            ]
            if not found:
                continue
            missed = sum(ratio > at_most for ratio, *_ in found)
            ratio, least, case, threads = max(found)
            verdict = f"[red]missed in {missed} of {len(found)}[/red]" if missed else "met"
            what, minimum = (
                ("time", f" (minima: {least:.3g})") if targets is TIMES else ("memory", "")
            )
            said.append(
                f"{what}, {name} / {over} at most {at_most:.3g}: {verdict}; the worst is "
                f"{ratio:.3g}{minimum}, {case}, threads: {threads}"
            )
    return said


def ratios(axes: Any, places: dict[Case, float], records: list[Record], names: list[str]) -> None:
    """Bars start at 1, the time of the products."""
    at = [places[case_of(r)] for r in records]
    axes.set_xscale("log", base=2)
    for i, name in enumerate(names):
        found = [medians(r)[name] / medians(r)["products"] for r in records]
        drawn = bars(axes, at, found, i, len(names), left=1, color=WAYS[name][1])
        axes.bar_label(drawn, [f"{x:.2f}" for x in found], padding=2, fontsize=7)
    axes.axvline(1, color="#444444", linewidth=1)
    axes.xaxis.set_major_locator(LogLocator(2))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}×"))
    threads = records[0]["threads"]
    axes.set_title(f"time, {threads} thread{'s' if threads > 1 else ''}")
    axes.set_xlabel("median over the three\nproducts (log scale)")
    mark_missing(axes, places, records)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.9), 1.5 * high)  # room for the numbers


def sizes(axes: Any, places: dict[Case, float], memory: list[Record], names: list[str]) -> None:
    at = [places[case_of(r)] for r in memory]
    axes.set_xscale("log")
    for i, name in enumerate(names):
        found = [r["peak bytes"][name] / 1e6 for r in memory]
        drawn = bars(axes, at, found, i, len(names), left=1, color=WAYS[name][1])
        axes.bar_label(drawn, [f"{x:,.0f}" for x in found], padding=2, fontsize=7)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_title("peak memory")
    axes.set_xlabel("MB beyond weights, inputs and\ngradients (log scale)")
    mark_missing(axes, places, memory)
    axes.set_xlim(1, 1.5 * axes.get_xlim()[1])


def mark_missing(axes: Any, places: dict[Case, float], records: list[Record]) -> None:
    for case in places.keys() - set(map(case_of, records)):
        axes.text(
            0.05,
            places[case],
            "not measured",
            transform=axes.get_yaxis_transform(),
            va="center",
            color="#888888",
            fontsize=8,
        )


def draw(result: Record, out: Path) -> None:
    records, memory = result["records"], result["memory"]
    threads = sorted({r["threads"] for r in records})
    cases: list[Case] = list(dict.fromkeys(case_of(r) for r in records))
    places = {case: float(y) for y, case in enumerate(cases)}
    names = [name for name in WAYS if name in records[0][PHASE]]
    panels = len(threads) + bool(memory)
    inches = 0.15 * len(names) * len(cases)
    figure, axes = plt.subplots(
        1, panels, figsize=(3.4 * panels, 1.9 + inches), sharey=True, squeeze=False
    )
    for count, each in zip(threads, axes[0], strict=False):
        ratios(each, places, [r for r in records if r["threads"] == count], names)
    if memory:
        sizes(axes[0, -1], places, memory, names)
    axes[0, 0].set_yticks(list(places.values()), [name_of(case, "\n") for case in cases])
    axes[0, 0].set_ylim(len(cases) - 0.5, -0.5)
    for each in axes[0]:
        each.tick_params(axis="y", length=0)
        each.grid(visible=False, axis="y")
        each.spines["left"].set_visible(False)
    inch = 1 / figure.get_figheight()
    figure.tight_layout(rect=(0, 0.75 * inch, 1, 1))
    figure.legend(
        handles=[Patch(color=WAYS[name][1], label=WAYS[name][0]) for name in names],
        loc="lower center",
        bbox_to_anchor=(0.5, 0.25 * inch),
        ncols=(len(names) + 1) // 2,
        frameon=False,
    )
    figure.text(0.5, 0.1 * inch, machine(result), ha="center", color="#666666", fontsize=8)
    figure.savefig(out, dpi=110)


def report(results: Path) -> None:
    result = json.loads(results.read_text())
    records, memory = result["records"], result["memory"]
    console = Console(width=200)
    console.print(times_table(records))
    if memory:
        console.print(peaks_table(memory))
    for line in judged(result):
        console.print(line, highlight=False)
    console.print(machine(result), highlight=False)
    chart = results.with_suffix(".png")
    draw(result, chart)
    console.print(f"written: {results}, {chart}", highlight=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "results", type=Path, nargs="?", default=Path("benchmarks/results/linear.json")
    )
    report(parser.parse_args().results)
