"""Time cross entropy on the CPU: fused_ce beside its peers, interleaved in one process.

Every round times each candidate once, in an order that rotates, so that whatever else the machine
does falls on all alike. Reported are medians and minima, ratios of medians, the share of the
machine that others took, and two ceilings: reading the logits once (torch.sum) and copying them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import fused_ce
import torch
import torch.nn.functional as F
from cases import DTYPES, FULL, KINDS, QUICK, SCALING, Case, Loss, Spec, draw
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

Record = dict[str, Any]
PHASES = ("forward", "forward+backward")
SAMPLE = 1e-4  # seconds: shorter calls are timed several at once, so that the clock costs nothing
MAPPED = 1 << 25  # bytes: glibc gives larger blocks back to the system, and their peak is seen


def clocks() -> tuple[float, float, float]:
    """Seconds: busy processors of the whole machine, this process's, and on the wall."""
    # user nice system idle iowait irq softirq steal; the guests after them are in user already.
    fields = [int(f) for f in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    busy = sum(fields) - fields[3] - fields[4]  # steal, what other virtual machines took, counts
    return busy / os.sysconf("SC_CLK_TCK"), time.process_time(), time.perf_counter()


def processor() -> str:
    """The processor's name, as Linux tells it."""
    for line in Path("/proc/cpuinfo").read_text().split("\n"):
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.machine()


def peak_growth(call: Callable[[], object]) -> int:
    """Bytes by which the resident memory of this process peaks above its start during a call."""

    def status(name: str) -> int:
        lines = Path("/proc/self/status").read_text().split("\n")
        return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])

    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = status("VmRSS")
    call()
    return max(0, status("VmHWM") - before)


def sample(call: Callable[[], object], batch: int) -> float:
    """Seconds that one of `batch` calls in a row takes."""
    begin = time.perf_counter()
    for _ in range(batch):
        call()
    return (time.perf_counter() - begin) / batch


def interleave(
    calls: dict[str, Callable[[], object]], batch: int, seconds: float
) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    names, start = list(calls), time.perf_counter()
    while time.perf_counter() - start < seconds or len(times[names[0]]) < 5:
        names = names[1:] + names[:1]
        for name in names:
            times[name].append(sample(calls[name], batch))
    return times


def measure(spec: Spec, losses: dict[str, Loss], seconds: float) -> Record:
    torch.set_num_threads(spec.threads)
    torch.compiler.reset()  # each case is compiled alone, for its own shape
    case = Case(spec)
    x = case.logits.detach()
    copy = torch.empty_like(x)
    record: Record = {**spec._asdict(), "bytes": x.nbytes, "other load": 0.0}
    for phase, run in zip(PHASES, (case.forward, case.both), strict=True):
        calls: dict[str, Callable[[], object]] = {n: partial(run, f) for n, f in losses.items()}
        peaks: dict[str, int] = {}
        with torch.set_grad_enabled(phase != "forward"):
            if phase == "forward":
                calls |= {"read": x.sum, "copy": partial(copy.copy_, x)}
            for call in calls.values():  # compilation, first touches
                call()
            batch = math.ceil(SAMPLE / min(sample(call, 1) for call in calls.values()))
            before = clocks()
            times = interleave(calls, batch, seconds)
            busy, own, wall = (b - a for a, b in zip(before, clocks(), strict=True))
            for name in losses if x.nbytes > MAPPED else ():
                case.logits.grad = None
                peaks[name] = peak_growth(calls[name])
            case.logits.grad = None
        record[phase] = {
            name: {"median": statistics.median(t), "min": min(t), "rounds": len(t), "batch": batch}
            for name, t in times.items()
        }
        record[f"{phase} peak bytes"] = peaks
        load = max(0.0, busy - own) / (wall * (os.cpu_count() or 1))
        record["other load"] = max(record["other load"], load)
    return record


def candidates(names: list[str]) -> dict[str, Loss]:
    """A name with a colon is module:function, anything with F.cross_entropy's signature."""
    found: dict[str, Loss] = {"fused_ce": fused_ce.cross_entropy}
    for name in names:
        if name == "eager":
            found[name] = F.cross_entropy
        elif name == "compile":
            found[name] = torch.compile(F.cross_entropy, dynamic=False)
        else:
            module, function = name.split(":")
            found[name] = getattr(importlib.import_module(module), function)
    return found


def ratio(record: Record, phase: str, name: str) -> float:
    """How many times as long as ours a peer takes."""
    return float(record[phase][name]["median"] / record[phase]["fused_ce"]["median"])


def worst(record: Record, names: list[str]) -> float:
    return min(ratio(record, phase, name) for phase in PHASES for name in names)


def table(title: str, records: list[Record], names: list[str]) -> Table:
    result = Table(title=title)
    result.add_column("shape, dtype, target, threads", no_wrap=True)
    for phase in PHASES:
        result.add_column(f"{phase}: ms", justify="right")
        for name in names:
            result.add_column(f"{name} / ours", justify="right")
    for record in records:
        row = [" ".join(str(record[field]) for field in Spec._fields)]
        for phase in PHASES:
            row.append(f"{1e3 * record[phase]['fused_ce']['median']:.4g}")
            ratios = [ratio(record, phase, name) for name in names]
            row += [f"{r:.2f}" if r >= 1 else f"[red]{r:.2f}[/red]" for r in ratios]
        result.add_row(*row)
    return result


def expected(specs: list[Spec], seconds: float, names: list[str]) -> float:
    """Seconds for all, as measured on two cores: compiling takes 9 for a case, cold."""
    logits = sum(math.prod(spec.sizes()) for spec in specs)
    return len(specs) * (2 * seconds + 0.3 + 9 * ("compile" in names)) + 10 * logits / 2**26


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--quick", action="store_true", help="four shapes, within two minutes")
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
    parser.add_argument("--peers", nargs="+", default=["eager", "compile"], metavar="NAME")
    parser.add_argument("--threads", nargs="+", type=int, default=[torch.get_num_threads()])
    parser.add_argument(
        "--seconds", type=float, help="each case and phase: 2; --quick: 1; --random: 0.3"
    )
    parser.add_argument("--out", type=Path, help="benchmarks/results/{cpu,scaling,random}.json")
    arguments = parser.parse_args()
    if arguments.random:
        seconds, name, dtypes, kinds = 0.3, "random", list(DTYPES), KINDS
    else:
        seconds, dtypes, kinds = 1.0 if arguments.quick else 2.0, ["float32", "bfloat16"], KINDS[:1]
        name = "scaling" if arguments.scaling else "cpu"
    arguments.seconds = arguments.seconds or seconds
    arguments.dtypes = arguments.dtypes or dtypes
    arguments.kinds = arguments.kinds or kinds
    arguments.out = arguments.out or Path(f"benchmarks/results/{name}.json")
    return arguments


def chosen(arguments: argparse.Namespace) -> list[Spec]:
    dtypes, kinds, threads = arguments.dtypes, arguments.kinds, arguments.threads
    if arguments.random:
        return draw(arguments.random, arguments.seed, arguments.largest, dtypes, kinds, threads)
    shapes = SCALING if arguments.scaling else QUICK if arguments.quick else FULL
    return [
        Spec(shape, dtype, kind, count)
        for count in threads
        for kind in kinds
        for dtype in dtypes
        for shape in arguments.shapes or shapes
    ]


def main() -> None:
    arguments = parse()
    specs, names = chosen(arguments), arguments.peers
    minutes = math.ceil(expected(specs, arguments.seconds, names) / 60)
    print(f"{len(specs)} cases, about {minutes} min, up to twice that on a busy machine")
    losses = candidates(names)
    machine = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "fused_ce": fused_ce.build_info(),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    records: list[Record] = []
    for spec in (progress := tqdm(specs)):
        progress.set_description(" ".join(map(str, spec)))
        record = measure(spec, losses, arguments.seconds)
        if arguments.random and worst(record, names) < 1:  # by chance? Once more, and longer
            record = measure(spec, losses, 4 * arguments.seconds)
        records.append(record)
        arguments.out.write_text(json.dumps({"machine": machine, "records": records}, indent=1))
    console = Console(width=140)
    shown, title = records, "time of a peer over ours (medians)"
    if arguments.random:
        shown = sorted((r for r in records if worst(r, names) < 1), key=lambda r: worst(r, names))
        title = f"a peer was faster in {len(shown)} of {len(records)} cases"
    console.print(table(title, shown, names) if shown else title)
    other = max(float(r["other load"]) for r in records)
    console.print(f"others took {100 * other:.0f} % of the machine at most")
    console.print(f"written: {arguments.out}")


if __name__ == "__main__":
    main()
