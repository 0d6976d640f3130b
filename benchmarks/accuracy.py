"""Errors of cross entropy on the CPU in ulp, fused_ce beside torch, against a wider type.

Worst of many rows, at every instruction set of this machine: of a row's loss, of the gradient at
its target, and of the gradient elsewhere (in ulp of the larger of the two numbers whose difference
it is); and of the mean and the sum of a million rows. The type's own rounding alone gives 0.5.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter
from pathlib import Path

import accuracy_chart
import fused_ce
import numpy as np
import torch
from cases import DTYPES
from distributions import DISTRIBUTIONS
from exact import goal, goal_elsewhere
from records import MEASURES, Record, of_ours, of_torch, worst
from rich.console import Console
from rich.table import Table
from tqdm import tqdm
from worst_rows import CLASSES, MANY_ROWS


def in_a_process(capability: str, loss: str, dtype: str) -> dict[str, list[Record]]:
    result = subprocess.run(
        [sys.executable, Path(__file__).with_name("worst_rows.py"), loss, dtype],
        env={**os.environ, "FUSED_CE_CPU_CAPABILITY": capability},
        stdout=subprocess.PIPE,
        check=True,
    )
    found: dict[str, list[Record]] = json.loads(result.stdout)
    return found


def measured(capabilities: list[str]) -> tuple[list[Record], list[Record]]:
    """A process for each dtype and loss, since it chooses an instruction set once."""
    losses = [("default", "torch"), *((capability, "fused_ce") for capability in capabilities)]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        running = [
            threads.submit(in_a_process, *loss, dtype) for dtype in DTYPES for loss in losses
        ]
        found = [process.result() for process in tqdm(running)]
    return [r for f in found for r in f["rows"]], [r for f in found for r in f["reductions"]]


def over_classes(rows: list[Record]) -> list[Record]:
    """Of each loss, dtype and distribution the worst of all C."""
    found: dict[tuple[str, ...], Record] = {}
    for r in rows:
        names = {name: r[name] for name in ("by", "dtype", "distribution")}
        record = found.setdefault(tuple(names.values()), {**names, "rows": 0})
        record["rows"] += r["rows"]
        for measure in MEASURES.keys() & r.keys():
            if r[measure]["ulp"] > record.get(measure, {"ulp": -1})["ulp"]:
                record[measure] = r[measure]
    return list(found.values())


def misses(rows: list[Record], totals: list[Record]) -> list[str]:
    """Where fused_ce is further off than it means to be."""
    case = itemgetter("dtype", "distribution", "C")
    theirs = {case(r): r for r in of_torch(rows)}
    found = []
    for r in of_ours(rows):
        for measure in MEASURES.keys() & r.keys():
            most = goal(DTYPES[r["dtype"]])
            if measure == "others":
                most = goal_elsewhere(DTYPES[r["dtype"]], theirs[case(r)][measure]["ulp"])
            if r[measure]["ulp"] > most:
                words = f"{r['by']}, {r['dtype']}, {r['distribution']}: {MEASURES[measure]}"
                found.append(f"{words}: {r[measure]}")
    for r in of_ours(totals):
        if r["ulp"] > goal(DTYPES[r["dtype"]]):
            found.append(f"{r['by']}, {r['dtype']}: {r['reduction']}: {r['ulp']:.3g} ulp")
    return found


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/accuracy.json"))
    out: Path = parser.parse_args().out
    if np.finfo(np.longdouble).nmant < 63:
        raise SystemExit("extended precision is missing here: long double is no longer than double")
    info = fused_ce.build_info()
    capabilities = info["cpu_capabilities"]
    assert isinstance(capabilities, list)
    rows, totals = measured(capabilities)
    records = over_classes(rows)
    machine = {"torch": torch.__version__, "fused_ce": info}
    result = {"machine": machine, "classes": CLASSES, "rows": records, "reductions": totals}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1))
    accuracy_chart.draw(out)
    console = Console(width=220)
    console.print(of_all_losses(records))
    console.print(of_each_loss(records, "float32"))
    console.print(of_reductions(totals))
    missed = misses(rows, totals)
    print("\n".join(missed) if missed else "every result is as exact as it should be")
    print(f"written: {out}")
    raise SystemExit(bool(missed))


if __name__ == "__main__":
    main()
