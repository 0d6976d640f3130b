# SPDX-License-Identifier: BSD-3-Clause
"""Time cross entropy, on the CPU or a GPU: fused_ce beside its peers, interleaved in one process.

Timed are calls of modules, made once, as a training loop has them; of small ones, where the cost of
a call shows, the recording of the graph as well, and one thread unless others are asked for.
Every round times each candidate once, in an order that chance gives, so that whatever else the
machine does falls on all alike. Reported are medians, quartiles and minima, ratios of medians, the
share of the machine that others took, and two ceilings: reading the logits once (torch.sum) and
copying them.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from functools import partial
from itertools import product
from pathlib import Path
from typing import cast

import torch
from cases import (
    CUDA,
    DTYPES,
    FULL,
    KINDS,
    PHASES,
    QUICK,
    SCALING,
    SMALL,
    Case,
    Spec,
    draw,
)
from devices import Call, Device, device_of
from peers import OVERWRITES, Make, candidates, installed
from rich.console import Console
from rich.table import Table
from timing import Record, clocks, interleave, machine_of, other_load, summary, write
from tqdm import tqdm


def passes(phase: str, name: str, kind: str) -> int:
    """Reads and writes of as many numbers as there are logits: no loss can do with fewer."""
    if name in ("read", "copy"):
        return 1 if name == "read" else 2
    read = 2 if kind == "probabilities" else 1
    return 2 * read + 1 if phase == "forward+backward" else read


def answering(calls: dict[str, Call], record: Record) -> dict[str, Call]:
    """Calls each once, which compiles it. Those that cannot, or say otherwise, are left out."""
    ours = calls["fused_ce"]()
    kept = {"fused_ce": calls["fused_ce"]}
    for name, call in calls.items():
        if name in kept:
            continue
        try:
            theirs = call()
            # None after a backward; the sum and the copy are no losses.
            if isinstance(ours, torch.Tensor) and name not in ("read", "copy"):
                theirs = cast(torch.Tensor, theirs)
                torch.testing.assert_close(theirs.float(), ours.float(), rtol=0.02, atol=1e-6)
            kept[name] = call
        except Exception as error:
            record["left out"][name] = f"{type(error).__name__}: {error}"[:200]
    return kept


def measure(spec: Spec, makes: dict[str, Make], seconds: float, device: Device) -> Record:
    torch.set_num_threads(spec.threads)
    torch.compiler.reset()  # each case is compiled alone, for its own shape
    case = Case(spec, device.name)
    cases = {n: Case(spec, device.name) if n in OVERWRITES else case for n in makes}
    losses = {name: make(**case.options) for name, make in makes.items()}
    x = case.logits.detach()
    copy = torch.empty_like(x)
    record: Record = {**spec._asdict(), "bytes": x.nbytes, "other load": 0.0, "left out": {}}
    for phase in spec.phases():
        calls: dict[str, Call] = {
            n: cases[n].call(phase, f) for n, f in losses.items() if n not in record["left out"]
        }
        peaks: dict[str, int] = {}
        with torch.set_grad_enabled(phase != "forward, no grad"):
            if phase == "forward, no grad":
                calls |= {"read": x.sum, "copy": partial(copy.copy_, x)}
            calls = answering(calls, record)
            shortest = min(device.sample(call, 1) for call in calls.values())
            batch = max(1, math.ceil(device.shortest_sample / shortest))
            before = clocks()
            times = interleave(device, calls, batch, seconds)
            load = other_load(before, clocks())
            for name in losses.keys() & calls if x.nbytes > device.smallest_peak else ():
                cases[name].logits.grad = None
                peaks[name] = device.peak_growth(calls[name])
            for each in cases.values():
                each.logits.grad = None
        record[phase] = {
            name: {
                **summary(t),
                "min": min(t),
                "batch": batch,
                "bytes a second": passes(phase, name, spec.kind) * x.nbytes / statistics.median(t),
            }
            for name, t in times.items()
        }
        record[f"{phase} peak bytes"] = peaks
        record["other load"] = max(record["other load"], load)
    return record


def ratio(record: Record, phase: str, name: str) -> float:
    """How many times as long as ours a peer takes."""
    return float(record[phase][name]["median"] / record[phase]["fused_ce"]["median"])


def worst(record: Record, names: list[str]) -> float:
    phases = [phase for phase in PHASES if phase in record]
    ratios = [ratio(record, p, name) for p in phases for name in names if name in record[p]]
    return min(ratios, default=math.inf)


def duration(seconds: float) -> str:
    return f"{1e6 * seconds:.3g} µs" if seconds < 1e-3 else f"{1e3 * seconds:.3g} ms"


def table(title: str, records: list[Record], names: list[str], copied: float | None) -> Table:
    """With the share of a copy's bandwidth, where that was measured."""
    result = Table(title=title)
    result.add_column("shape, dtype, target, threads", no_wrap=True)
    phases = [phase for phase in PHASES if any(phase in record for record in records)]
    for phase in phases:
        result.add_column(f"{phase}: ours", justify="right", min_width=8)
        if copied:
            result.add_column("of a\ncopy's", justify="right")
        for name in names:
            result.add_column(f"{name} /\nours", justify="right", no_wrap=True)
    for record in records:
        row = [" ".join(str(record[field]) for field in Spec._fields)]
        for phase in phases:
            times = record.get(phase, {})
            ours = times.get("fused_ce")
            row.append(duration(ours["median"]) if ours else "")
            if copied:
                row.append(f"{ours['bytes a second'] / copied:.0%}" if ours else "")
            for name in names:
                r = ratio(record, phase, name) if name in times else math.nan
                row.append("" if math.isnan(r) else f"{r:.2f}" if r >= 1 else f"[red]{r:.2f}[/red]")
        result.add_row(*row)
    return result


def expected(specs: list[Spec], seconds: float, names: list[str]) -> float:
    """Seconds for all, as measured on two cores: compiling takes 4.5 for a phase, cold."""
    phases = sum(len(spec.phases()) for spec in specs)
    logits = sum(spec.logits() for spec in specs)
    return phases * (seconds + 0.15 + 4.5 * ("compile" in names)) + 10 * logits / 2**26


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--quick", action="store_true", help="six shapes, within three minutes")
    mode.add_argument("--small", action="store_true", help="small calls only")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    mode.add_argument("--shapes", nargs="+", help="such as 8192x1000 or 8x21x512x512")
    mode.add_argument("--scaling", action="store_true", help="2^24 logits, C from 2 to 2^20")
    mode.add_argument(
        "--random", type=int, metavar="N", help="N cases at random; shows where a peer was faster"
    )
    parser.add_argument("--seed", type=int, default=0, help="of --random")
    parser.add_argument("--largest", type=int, default=2**22, help="most logits of --random")
    parser.add_argument(
        "--dtypes", nargs="+", choices=DTYPES, help="float32 and bfloat16; --random: all four"
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, help="indices; --random: all three")
    parser.add_argument(
        "--peers",
        nargs="+",
        metavar="NAME",
        help="eager, compile; on cuda: eager, in place, and what is installed",
    )
    parser.add_argument(
        "--threads",
        nargs="+",
        type=int,
        help="all cores, and one for small calls; --random: one of the two",
    )
    parser.add_argument(
        "--seconds", type=float, help="each case and phase: 2; --quick: 1; --random: 0.3"
    )
    parser.add_argument(
        "--limit", type=float, default=math.inf, help="seconds after which no case is begun"
    )
    parser.add_argument(
        "--out", type=Path, help="benchmarks/results/{cpu,cuda,small,scaling,random}.json"
    )
    arguments = parser.parse_args()
    if arguments.random:
        seconds, name, dtypes, kinds = 0.3, "random", list(DTYPES), KINDS
        arguments.threads = arguments.threads or sorted({1, torch.get_num_threads()})
    else:
        seconds, dtypes, kinds = 1.0 if arguments.quick else 2.0, ["float32", "bfloat16"], KINDS[:1]
        name = next((m for m in ("scaling", "small") if getattr(arguments, m)), arguments.device)
    if not arguments.peers:  # on a GPU compiling takes the time that all else needs
        on_gpu = arguments.device == "cuda"
        arguments.peers = ["eager", "in place", *installed()] if on_gpu else ["eager", "compile"]
    arguments.seconds = arguments.seconds or seconds
    arguments.dtypes = arguments.dtypes or dtypes
    arguments.kinds = arguments.kinds or kinds
    arguments.out = arguments.out or Path(f"benchmarks/results/{name}.json")
    return arguments


def chosen(arguments: argparse.Namespace) -> list[Spec]:
    dtypes, kinds, threads = arguments.dtypes, arguments.kinds, arguments.threads
    if arguments.random:
        return draw(arguments.random, arguments.seed, arguments.largest, dtypes, kinds, threads)
    full = CUDA if arguments.device == "cuda" else FULL
    modes = {"scaling": SCALING, "quick": QUICK, "small": SMALL, "shapes": arguments.shapes}
    shapes = next((listed for mode, listed in modes.items() if getattr(arguments, mode)), full)
    cores = torch.get_num_threads()
    specs = [Spec(*key, 0) for key in product(shapes, dtypes, kinds)]
    return [
        spec._replace(threads=count)
        for spec in specs
        for count in threads or [1 if spec.small() else cores]
    ]


def main() -> None:
    start = time.perf_counter()
    arguments = parse()
    device = device_of(arguments.device)
    specs, names = chosen(arguments), arguments.peers
    minutes = math.ceil(expected(specs, arguments.seconds, names) / 60)
    print(f"{len(specs)} cases, about {minutes} min, up to twice that on a busy machine")
    makes = candidates(names)
    machine = machine_of(device)
    records: list[Record] = []
    for spec in (progress := tqdm(specs)):
        if time.perf_counter() - start > arguments.limit:
            print(f"\n{len(specs) - len(records)} cases left out: {arguments.limit:g} s are over")
            break
        progress.set_description(" ".join(map(str, spec)))
        try:
            record = measure(spec, makes, arguments.seconds, device)
        except torch.OutOfMemoryError as error:  # not as much as the largest cases want
            print(f"\n{spec.shape} {spec.dtype} is left out: {error}")
            continue
        if arguments.random and worst(record, names) < 1:  # by chance? Once more, and longer
            record = measure(spec, makes, 4 * arguments.seconds, device)
        records.append(record)
        write(arguments.out, {"machine": machine, "records": records})
    console = Console(width=max(150, 50 * len(names)))
    shown, title = records, "time of a peer over ours (medians)"
    if arguments.random:
        shown = sorted((r for r in records if worst(r, names) < 1), key=lambda r: worst(r, names))
        title = f"a peer was faster in {len(shown)} of {len(records)} cases"
    copied = machine.get("copied bytes a second")
    console.print(table(title, shown, names, copied) if shown else title)
    other = max((float(r["other load"]) for r in records), default=0.0)
    console.print(f"others took {100 * other:.0f} % of the machine at most")
    console.print(f"written: {arguments.out}")


if __name__ == "__main__":
    main()
