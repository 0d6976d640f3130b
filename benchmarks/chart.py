"""Draw a result file of bench.py: how many times as long each peer takes, and the memory."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

COLOURS = ["#56b4e9", "#009e73", "#cc79a7"]


def speed(axes: Any, records: list[dict[str, Any]], phase: str, names: list[str]) -> None:
    height = 0.8 / len(names)
    for i, name in enumerate(names):
        ratios = [r[phase][name]["median"] / r[phase]["fused_ce"]["median"] for r in records]
        at = [k + (i - (len(names) - 1) / 2) * height for k in range(len(records))]
        bars = axes.barh(at, ratios, height, color=COLOURS[i], label=f"torch {name}")
        axes.bar_label(bars, [f"{r:.1f}" for r in ratios], padding=2, fontsize=7)
    axes.axvline(1, color="#d55e00", linewidth=2, label="fused_ce")
    axes.set_yticks(range(len(records)), [f"{r['shape']} {r['dtype']}" for r in records])
    axes.set_xlabel("times as long as fused_ce (median)")
    axes.set_title(phase)
    axes.invert_yaxis()


def memory(axes: Any, records: list[dict[str, Any]], names: list[str]) -> None:
    key = "forward+backward peak bytes"
    records = [r for r in records if r[key]]
    height = 0.8 / (len(names) + 1)
    for i, name in enumerate([*names, "fused_ce"]):
        at = [k + (i - len(names) / 2) * height for k in range(len(records))]
        times = [r[key][name] / r["bytes"] for r in records]
        axes.barh(at, times, height, color="#d55e00" if name == "fused_ce" else COLOURS[i])
    axes.set_yticks(range(len(records)), [f"{r['shape']} {r['dtype']}" for r in records])
    axes.set_xlabel("peak memory beside the logits, in sizes of the logits")
    axes.set_title("memory, forward+backward")
    axes.invert_yaxis()


def scaling(axes: Any, records: list[dict[str, Any]], names: list[str]) -> None:
    threads = sorted({r["threads"] for r in records})
    for style, count in zip(("-", ":", "--"), reversed(threads), strict=False):
        some = [r for r in records if r["threads"] == count]
        classes = [int(r["shape"].split("x")[1]) for r in some]
        for i, name in enumerate([*names, "fused_ce"]):
            colour = "#d55e00" if name == "fused_ce" else COLOURS[i]
            times = [1e3 * r["forward+backward"][name]["median"] for r in some]
            label = f"{name}, {count} thread{'s' if count > 1 else ''}"
            axes.plot(classes, times, "o" + style, color=colour, label=label, markersize=4)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("classes C, with N x C = 2^24 float32 logits")
    axes.set_ylabel("forward+backward, ms")
    axes.legend(frameon=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "results", type=Path, nargs="?", default=Path("benchmarks/results/cpu.json")
    )
    parser.add_argument("--scaling", action="store_true", help="time against C instead")
    arguments = parser.parse_args()
    records = json.loads(arguments.results.read_text())["records"]
    names = [n for n in records[0]["forward"] if n not in ("fused_ce", "read", "copy")]
    mpl.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "font.size": 9})
    if arguments.scaling:
        figure, axes = plt.subplots(figsize=(7, 4.5))
        scaling(axes, records, names)
    else:
        figure, (a, b, c) = plt.subplots(1, 3, figsize=(16, 1.5 + 0.42 * len(records)))
        speed(a, records, "forward", names)
        speed(b, records, "forward+backward", names)
        memory(c, records, names)
        handles, labels = a.get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower center", ncols=4, frameon=False)
        figure.tight_layout(rect=(0, 0.05, 1, 1))
    out = arguments.results.with_suffix(".png")
    figure.savefig(out, dpi=130, bbox_inches="tight")
    print(f"written: {out}")


if __name__ == "__main__":
    main()
