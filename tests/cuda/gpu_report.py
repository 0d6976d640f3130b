# SPDX-License-Identifier: BSD-3-Clause
"""What a result file of `make gpu` says, as text: the loss, measured beside modelled; what features
and a linear layer cost; what failed.

    python tests/cuda/gpu_report.py benchmarks/results/gpu.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import modelled

Result = dict[str, Any]
Row = list[str]
FORWARD, BOTH = "forward, no grad", "forward+backward"
BANDWIDTHS = """\
The loss. Bandwidths: of the logits and their gradient alone; backward: both, less forward.
Modelled: of all that is moved, which is more where there are few classes, per cent of peak."""
PHASES = {"forward": FORWARD, BOTH: BOTH}  # backward alone is nobody's but ours


def aligned(rows: list[Row]) -> str:
    """The first two columns to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = ["<"] * 2 + [">"] * (len(widths) - 2)
    lines = [
        "  ".join(f"{cell:{s}{w}}" for cell, s, w in zip(row, sides, widths, strict=True))
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:.0f}"


def percent(part: float, whole: float | None) -> str:
    return f"{part / whole:.0%}" if whole else ""


def over(times: Result, name: str, unit: str) -> str:
    """How many times as long as the unit."""
    return f"{times[name]['median'] / times[unit]['median']:.2f}" if name in times else ""


def names_in(records: list[Result], phases: tuple[str, ...], but: set[str]) -> list[str]:
    """Everything that was timed, in the order in which it came."""
    timed = [name for r in records for phase in phases for name in r[phase]]
    return [name for name in dict.fromkeys(timed) if name not in but]


def directions(record: Result) -> dict[str, tuple[float, float]]:
    """Of ours: seconds, and passes over the logits. What forward and backward take beyond forward
    is backward's: it reads, and it writes.
    """
    forward, both = (record[phase]["fused_ce"]["median"] for phase in (FORWARD, BOTH))
    return {"forward": (forward, 1), "backward": (both - forward, 2), BOTH: (both, 3)}


def of_losses(result: Result) -> str:
    records = result.get("records", [])
    compiled = {(r["shape"], r["dtype"]): r for r in result.get("compiled", {}).get("records", [])}
    machine, figures = result.get("machine", {}), result.get("modelled", {})
    names = names_in(records, (FORWARD, BOTH), {"fused_ce", "read", "copy"})
    head = ["shape, dtype", "direction", "ms", "GB/s", "of copy", "of peak", "modelled"]
    rows: list[Row] = [[*head, *(f"{name}/ours" for name in [*names, "compile"])]]
    for r in records:
        case = f"{r['shape']} {r['dtype']}"
        for direction, (seconds, passes) in directions(r).items():
            speed = passes * r["bytes"] / seconds
            model = figures.get(modelled.name(r["shape"], r["dtype"], direction))
            phase = PHASES.get(direction, "")
            times = r.get(phase, {})
            beside = compiled.get((r["shape"], r["dtype"]), {}).get(phase, {})
            rows.append(
                [
                    *(
                        case,
                        direction,
                        milliseconds(seconds),
                        f"{speed / 1e9:.3g}" if speed < 1e12 else f"{speed / 1e9:.0f}",
                    ),
                    percent(speed, machine.get("copied bytes a second")),
                    percent(speed, machine.get("peak bytes a second")),
                    "" if model is None else f"{model:.0f}%",
                    *(over(times, name, "fused_ce") for name in names),
                    over(beside, "compile", "fused_ce"),
                ]
            )
    return aligned(rows)


def of_memory(records: list[Result]) -> str:
    key = f"{BOTH} peak bytes"
    names = names_in(records, (BOTH,), set())
    rows: list[Row] = [["shape", "dtype", *names]]
    for r in records:
        peaks = [r[key].get(name) for name in names]
        cells = ["" if p is None else f"{p / r['bytes']:.2f}" for p in peaks]
        rows.append([r["shape"], r["dtype"], *cells])
    return aligned(rows)


def of_features(records: list[Result]) -> str:
    phases = ("forward", BOTH)
    names = names_in(records, phases, {"loss alone"})
    rows: list[Row] = [["shape, dtype, feature", "phase", *names]]
    for r in records:
        for phase in phases:
            cells = [over(r[phase], name, "loss alone") for name in names]
            rows.append([f"{r['shape']} {r['dtype']} {r['feature']}", phase, *cells])
    return aligned(rows)


def of_linear(result: Result) -> str:
    records = result["records"]
    names = names_in(records, (BOTH,), {"products"})
    rows: list[Row] = [["shape, dtype", "", "products, ms", *names]]
    for r in records:
        unit = milliseconds(r[BOTH]["products"]["median"])
        cells = [over(r[BOTH], name, "products") for name in names]
        rows.append([f"{r['shape']} {r['dtype']}", "time", unit, *cells])
    for r in result["memory"]:
        peaks = [r["peak bytes"].get(name) for name in names]
        cells = ["" if p is None else f"{p / 1e6:.0f}" for p in peaks]
        rows.append([f"{r['shape']} {r['dtype']}", "MB", "", *cells])
    return aligned(rows)


def left_out(result: Result) -> list[str]:
    """Each reason once."""
    parts = [result, *(result.get(part, {}) for part in ("compiled", "features", "linear"))]
    records = [record for part in parts for record in part.get("records", [])]
    found = [f"{name}: {why}" for r in records for name, why in r["left out"].items()]
    return list(dict.fromkeys(found))


def report(result: Result) -> str:
    parts = []
    if records := result.get("records"):
        parts += [BANDWIDTHS, of_losses(result)]
        parts += ["Peak memory of forward and backward over the logits' size", of_memory(records)]
    if records := result.get("features", {}).get("records"):
        parts += ["The loss head: time over our loss alone", of_features(records)]
    if result.get("linear", {}).get("records"):
        parts += ["A linear layer: time over its three products, and memory beyond gradients"]
        parts += [of_linear(result["linear"])]
    if lines := left_out(result):
        parts += ["Left out of a case", "\n".join(lines)]
    stages = [[s["name"], s["outcome"], f"{s['seconds']:.0f} s"] for s in result["stages"]]
    parts += [result["environment"]["gpu"], aligned(stages)]
    return "\n\n".join(parts)


if __name__ == "__main__":
    print(report(json.loads(Path(sys.argv[1]).read_text())))
