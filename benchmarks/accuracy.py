# SPDX-License-Identifier: BSD-3-Clause
"""Errors of cross entropy on the CPU in ulp, fused_ce beside torch, against a wider type.

Worst of many rows, at every instruction set of this machine: of a row's loss, of the gradient at
its target, and of the gradient elsewhere (in ulp of the larger of the two numbers whose difference
it is); of the mean and the sum of a million rows; and of what a loss head gives beside the loss,
beside the composition of torch's operators. The type's own rounding alone gives 0.5.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import accuracy_chart
import fused_ce
import numpy as np
import torch
from cases import DTYPES
from distributions import DISTRIBUTIONS
from misses import goal_of_loss, misses, misses_of_reductions
from records import MEASURES, STATISTICS, Record, of_ours, of_torch, worst
from rich.console import Console
from rich.table import Table
from tqdm import tqdm
from worst_rows import CLASSES, MANY_ROWS
from worst_statistics import DISTRIBUTIONS as STATISTICS_DISTRIBUTIONS
from worst_statistics import STATISTICS_DTYPES, goal_of


def in_a_process(capability: str, script: str, loss: str, dtype: str) -> dict[str, list[Record]]:
    result = subprocess.run(
        [sys.executable, Path(__file__).with_name(script), loss, dtype],
        env={**os.environ, "FUSED_CE_CPU_CAPABILITY": capability},
        stdout=subprocess.PIPE,
        check=True,
    )
    found: dict[str, list[Record]] = json.loads(result.stdout)
    return found


def measured(capabilities: list[str]) -> dict[str, list[Record]]:
    """A process for each dtype and loss, since it chooses an instruction set once."""
    losses = [("default", "torch"), *((capability, "fused_ce") for capability in capabilities)]
    scripts = {"worst_rows.py": list(DTYPES), "worst_statistics.py": STATISTICS_DTYPES}
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        running = [
            threads.submit(in_a_process, capability, script, loss, dtype)
            for script, dtypes in scripts.items()
            for dtype in dtypes
            for capability, loss in losses
        ]
        found: dict[str, list[Record]] = {}
        for process in tqdm(running):
            for kind, records in process.result().items():
                found.setdefault(kind, []).extend(records)
    return found


def over_classes(rows: list[Record], measures: dict[str, str]) -> list[Record]:
    """Of each loss, dtype and distribution the worst of all C."""
    found: dict[tuple[str, ...], Record] = {}
    for r in rows:
        names = {name: r[name] for name in ("by", "dtype", "distribution")}
        record = found.setdefault(tuple(names.values()), {**names, "rows": 0})
        record["rows"] += r["rows"]
        for measure in measures.keys() & r.keys():
            if r[measure]["ulp"] > record.get(measure, {"ulp": -1})["ulp"]:
                record[measure] = r[measure]
    return list(found.values())


def short(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0e}".replace("e+0", "e").replace("e+", "e")


def beside_torch(records: list[Record], measure: str) -> str:
    pair = worst(of_ours(records), measure), worst(of_torch(records), measure)
    return " / ".join(short(ulp) for ulp in pair if ulp is not None)


def of_all_losses(records: list[Record]) -> Table:
    table = Table(title="worst error in ulp of all C and instruction sets: fused_ce / torch")
    table.add_column("distribution", no_wrap=True)
    for dtype in DTYPES:
        for measure in MEASURES:
            table.add_column(f"{dtype} {measure}", justify="right")
    for name in DISTRIBUTIONS:
        some = [r for r in records if r["distribution"] == name]
        of_dtypes = [[r for r in some if r["dtype"] == dtype] for dtype in DTYPES]
        table.add_row(name, *(beside_torch(rs, m) for rs in of_dtypes for m in MEASURES))
    return table


def of_each_loss(records: list[Record], dtype: str) -> Table:
    table = Table(title=f"the same of each instruction set, {dtype}: loss, target, elsewhere")
    table.add_column("distribution", no_wrap=True)
    records = [r for r in records if r["dtype"] == dtype]
    names = list(dict.fromkeys(r["by"] for r in records))
    for who in names:
        table.add_column(who, justify="right")
    for name in DISTRIBUTIONS:
        cells = []
        for who in names:
            some = [r for r in records if (r["by"], r["distribution"]) == (who, name)]
            ulps = [worst(some, measure) for measure in MEASURES]
            cells.append("  ".join(short(ulp) for ulp in ulps if ulp is not None))
        table.add_row(name, *cells)
    return table


def of_reductions(totals: list[Record]) -> Table:
    table = Table(title=f"error in ulp of {MANY_ROWS:,} rows: fused_ce / torch")
    table.add_column("reduction")
    table.add_column("dtype")
    table.add_column("ulp", justify="right")
    for reduction, dtype in dict.fromkeys((r["reduction"], r["dtype"]) for r in totals):
        some = [r for r in totals if (r["reduction"], r["dtype"]) == (reduction, dtype)]
        ours, theirs = (max(r["ulp"] for r in rs) for rs in (of_ours(some), of_torch(some)))
        table.add_row(reduction, dtype, f"{short(ours)} / {short(theirs)}")
    return table


def of_statistics(records: list[Record]) -> Table:
    table = Table(title="worst error in ulp of a loss head: fused_ce / torch's composition")
    table.add_column("result", no_wrap=True)
    table.add_column("distribution", no_wrap=True)
    for dtype in STATISTICS_DTYPES:
        table.add_column(dtype, justify="right")
    for measure, name in STATISTICS.items():
        for distribution in STATISTICS_DISTRIBUTIONS:
            some = [r for r in records if r["distribution"] == distribution and measure in r]
            if some:
                of_dtypes = [[r for r in some if r["dtype"] == d] for d in STATISTICS_DTYPES]
                table.add_row(name, distribution, *(beside_torch(rs, measure) for rs in of_dtypes))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/accuracy.json"))
    out: Path = parser.parse_args().out
    if np.finfo(np.longdouble).nmant < 63:
        raise SystemExit("extended precision is missing here: long double is no longer than double")
    info = fused_ce.build_info()
    capabilities = info["cpu_capabilities"]
    assert isinstance(capabilities, list)
    found = measured(capabilities)
    rows, totals, statistics = (found[kind] for kind in ("rows", "reductions", "statistics"))
    records = over_classes(rows, MEASURES)
    heads = over_classes(statistics, STATISTICS)
    machine = {"torch": torch.__version__, "fused_ce": info}
    result = {"machine": machine, "classes": CLASSES, "rows": records, "reductions": totals}
    result["statistics"] = heads
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1))
    accuracy_chart.draw(out)
    console = Console(width=220)
    console.print(of_all_losses(records))
    console.print(of_each_loss(records, "float32"))
    console.print(of_reductions(totals))
    console.print(of_statistics(heads))
    missed = [
        *misses(rows, MEASURES, goal_of_loss),
        *misses_of_reductions(totals),
        *misses(statistics, STATISTICS, goal_of),
    ]
    print("\n".join(missed) if missed else "every result is as exact as it should be")
    print(f"written: {out}")
    raise SystemExit(bool(missed))


if __name__ == "__main__":
    main()
