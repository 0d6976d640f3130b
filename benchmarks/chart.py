# SPDX-License-Identifier: BSD-3-Clause
"""Draw a result file of bench.py: how many times as long each peer takes, and the memory."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from cases import PHASES
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from style import COLOURS, OURS

Record = dict[str, Any]
LABELS = {"eager": "torch eager", "compile": "torch.compile"}
STYLES: list[Any] = ["-", "--", ":", "-."]


def machine(result: dict[str, Any]) -> str:
    """One line on where the numbers come from."""
    about = result["machine"]
    other = max(r["other load"] for r in result["records"])
    if about.get("device") == "cuda":
        return f"{about['processor']}, torch {about['torch']}; memory: of torch's allocator"
    return (
        f"{about['processor']}, {about['cores']} cores, {about['fused_ce']['cpu_capability']}, "
        f"torch {about['torch']}; others took {100 * other:.0f} % of the machine at most"
    )


def lines(records: list[Record], threads: bool) -> tuple[list[float], list[tuple[float, str]]]:
    """Where each record's bars go, from the top down, and a heading for each group of records.

    threads: of the CPU, which say nothing on a GPU.
    """
    at: list[float] = []
    headings: list[tuple[float, str]] = []
    y, last = 0.0, ""
    for r in records:
        group = f"{r['dtype']}, {r['kind']}"
        if threads:
            group += f", {r['threads']} thread{'s' if r['threads'] > 1 else ''}"
        if group != last:
            headings.append((y, group))
            y, last = y + 0.9, group
        at.append(y)
        y += 1
    return at, headings


def bars(axes: Any, at: list[float], values: list[float], row: int, rows: int, **style: Any) -> Any:
    """One bar in each record's line: the `row`-th of `rows` that share it."""
    height = 0.8 / rows
    middles = [y + (row - (rows - 1) / 2) * height for y in at]
    left = style.get("left", 0)
    return axes.barh(middles, [v - left for v in values], 0.9 * height, **style)


def quartiles(times: Record) -> list[float]:
    """Of one candidate; results from before they were recorded show no spread."""
    found: list[float] = times.get("quartiles", [times["median"]] * 2)
    return found


def speed(axes: Any, at: list[float], records: list[Record], phase: str, names: list[str]) -> None:
    """Bars start at 1, our time: to the right a peer takes longer, to the left it is faster.

    Whiskers reach to a peer's quartiles, a band around 1 to ours.
    """
    axes.set_xscale("log", base=2)
    ours = [r[phase]["fused_ce"] for r in records]
    bounds = np.array([quartiles(times) for times in ours]).T / [t["median"] for t in ours]
    axes.barh(at, bounds[1] - bounds[0], 0.9, bounds[0], color=OURS, alpha=0.3)
    for i, name in enumerate(names):
        # A peer may be left out of a case.
        places = [(y, r[phase]) for y, r in zip(at, records, strict=True) if name in r[phase]]
        units = np.array([times["fused_ce"]["median"] for _, times in places])
        ratios = np.array([times[name]["median"] for _, times in places]) / units
        bounds = np.array([quartiles(times[name]) for _, times in places]).T / units
        drawn = bars(
            axes,
            [y for y, _ in places],
            ratios,
            *(i, len(names)),
            left=1,
            color=COLOURS[i % len(COLOURS)],
            xerr=abs(bounds - ratios),
            error_kw={"elinewidth": 0.8, "ecolor": "#444444"},
        )
        axes.bar_label(drawn, [f"{r:.1f}" if r >= 1 else f"{r:.2f}" for r in ratios], padding=2)
    axes.axvline(1, color=OURS, linewidth=2)
    axes.xaxis.set_major_locator(LogLocator(2))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}×"))
    low, high = axes.get_xlim()
    axes.set_xlim(0.7 * min(low, 1), 1.4 * high)  # room for the numbers
    axes.set_title(f"{phase}\ntime")
    axes.set_xlabel("median over ours (log scale)")


def memory(axes: Any, at: list[float], records: list[Record], phase: str, names: list[str]) -> None:
    key = f"{phase} peak bytes"
    most = 1.0
    measured = [(y, r) for y, r in zip(at, records, strict=True) if r[key]]
    for i, name in enumerate([*names, "fused_ce"]):
        places = [(y, r[key][name] / r["bytes"]) for y, r in measured if name in r[key]]
        sizes = [size for _, size in places]
        colour = OURS if name == "fused_ce" else COLOURS[i % len(COLOURS)]
        drawn = bars(axes, [y for y, _ in places], sizes, i, len(names) + 1, color=colour)
        axes.bar_label(drawn, [f"{s:.1f}" for s in sizes], padding=2, fontsize=8)
        most = max([most, *sizes])
    axes.set_xlim(0, 1.2 * most)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    for y, r in zip(at, records, strict=True):
        if not r[key]:
            axes.text(0.05, y, "under 32 MB", va="center", color="#888888", fontsize=8)
    axes.set_title(f"{phase}\nmemory")
    axes.set_xlabel("peak / size of logits")


def block(
    figure: Any, records: list[Record], at: list[float], headings: Any, names: list[str]
) -> None:
    """One line of panels: small calls, the time of all phases; large ones, time and memory."""
    phases = [phase for phase in PHASES if phase in records[0]]
    small = len(phases) == len(PHASES)
    widths = [4] * 3 if small else [3, 3, 2, 2]
    panels = figure.subplots(1, len(widths), sharey=True, width_ratios=widths)
    figure.suptitle("Small calls" if small else "Large calls", size=12, weight="bold")
    for phase, axes in zip(phases, panels, strict=False):
        speed(axes, at, records, phase, names)
    for phase, axes in zip(phases, panels[len(phases) :], strict=False):
        memory(axes, at, records, phase, names)
    shapes = [r["shape"].replace("x", " × ") for r in records]
    panels[0].set_yticks(at, shapes)
    panels[0].set_ylim(at[-1] + 0.6, -0.5)
    for panel in panels:
        panel.tick_params(axis="y", length=0)
        panel.grid(visible=False, axis="y")
        panel.spines["left"].set_visible(False)
    for y, text in headings:
        panels[0].annotate(
            text,
            (0, y),
            (-6, 0),
            xycoords=panels[0].get_yaxis_transform(),
            textcoords="offset points",
            ha="right",
            va="center",
            weight="bold",
            annotation_clip=False,
        )


def comparison(result: dict[str, Any], names: list[str]) -> Any:
    """Small calls above, larger ones below."""

    # Grouped, in the order in which the groups came.
    def kind(r: Record) -> tuple[object, ...]:
        return r["dtype"], r["kind"], r["threads"]

    kinds = list(dict.fromkeys(map(kind, result["records"])))
    records = sorted(result["records"], key=lambda r: kinds.index(kind(r)))
    threads = result["machine"].get("device") != "cuda"
    blocks = [[r for r in records if (PHASES[1] in r) == small] for small in (True, False)]
    blocks = [some for some in blocks if some]
    places = [lines(some, threads) for some in blocks]
    tall = 0.15 * (len(names) + 1)  # inches for a line
    heights = [1.35 + tall * (at[-1] + 1) for at, _ in places]
    figure = plt.figure(figsize=(10.5, 0.6 + sum(heights)), layout="constrained")
    parts = figure.subfigures(len(blocks), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, some, (at, headings) in zip(parts, blocks, places, strict=True):
        block(part, some, at, headings, names)
    return figure


def scaling(result: dict[str, Any], names: list[str]) -> Any:
    records = result["records"]
    threads = sorted({r["threads"] for r in records}, reverse=True)
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.4), sharey=True, layout="constrained")
    for phase, axes in zip((PHASES[0], PHASES[2]), panels, strict=True):
        for style, count in zip(STYLES, threads, strict=False):
            some = [r for r in records if r["threads"] == count]
            classes = [int(r["shape"].split("x")[1]) for r in some]
            for i, name in enumerate([*names, "fused_ce"]):
                colour = OURS if name == "fused_ce" else COLOURS[i % len(COLOURS)]
                times = [1e3 * r[phase][name]["median"] for r in some]
                axes.plot(classes, times, "o" + style, color=colour, markersize=4)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks([2, 16, 256, 4096, 65536, 1048576], ["2", "16", "256", "4k", "64k", "1M"])
        axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_title(phase)
        axes.set_xlabel(f"classes C, with N × C = 2²⁴ {records[0]['dtype']} logits")
    panels[0].set_ylabel("median, ms")
    panels[0].tick_params(axis="y", labelleft=True)
    return figure


def legend(figure: Any, names: list[str], threads: list[int], bottom: float) -> None:
    entries: list[tuple[str, str, Any, float]] = [("fused_ce", OURS, "-", 5.0)]
    entries += [
        (LABELS.get(n, n), COLOURS[i % len(COLOURS)], "-", 5.0) for i, n in enumerate(names)
    ]
    for style, count in zip(STYLES, threads, strict=False):
        entries.append((f"{count} thread{'s' if count > 1 else ''}", "#444444", style, 1.5))
    handles = [Line2D([], [], color=c, linestyle=s, linewidth=w) for _, c, s, w in entries]
    figure.legend(
        handles,
        [label for label, *_ in entries],
        loc="lower center",
        bbox_to_anchor=(0.5, bottom),
        ncols=len(entries),
        fontsize=9 if len(entries) < 8 else 7.5,
        frameon=False,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "results", type=Path, nargs="?", default=Path("benchmarks/results/cpu.json")
    )
    parser.add_argument("--scaling", action="store_true", help="time against C instead")
    arguments = parser.parse_args()
    result = json.loads(arguments.results.read_text())
    records = result["records"]
    timed = dict.fromkeys(name for record in records for name in record[PHASES[0]])
    names = [n for n in timed if n not in ("fused_ce", "read", "copy")]
    figure = (scaling if arguments.scaling else comparison)(result, names)
    inch = 1 / figure.get_figheight()
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1, rect=(0, 0.55 * inch, 1, 1 - 0.55 * inch))
    threads = sorted({r["threads"] for r in records}, reverse=True) if arguments.scaling else []
    legend(figure, names, threads, 0.22 * inch)
    caption = machine(result)
    if not arguments.scaling and all("quartiles" in r[PHASES[0]]["fused_ce"] for r in records):
        caption = f"whiskers, band: quartiles; {caption}"
    figure.text(0.5, 0.08 * inch, caption, ha="center", color="#666666", fontsize=8)
    out = arguments.results.with_suffix(".png")
    figure.savefig(out, dpi=110)
    print(f"written: {out}")


if __name__ == "__main__":
    main()
