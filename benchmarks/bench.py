"""Time cross entropy on the CPU: fused_ce beside its peers, interleaved in one process.

Every round calls each candidate once, in an order that rotates, so that whatever else the machine
does falls on all alike. Reported are medians and minima, ratios of medians, the share of the
machine that other processes took, and two ceilings: reading the logits once (torch.sum) and
copying them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import fused_ce
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

Loss = Callable[..., torch.Tensor]
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
QUICK = ["65536x10", "4096x64", "8192x1000", "1024x32000"]
FULL = ["32x10", "128x100", "65536x10", "4096x64", "8192x1000", "2048x32000"]
FULL += ["1024x50257", "512x128256", "64x1000000", "8x21x512x512"]
SCALING = [f"{2**24 // c}x{c}" for c in (2, 4, 16, 64, 256, 1024, 4096, 16384, 131072, 1048576)]


def jiffies() -> tuple[float, float]:
    """Processor time of the whole machine and of this process, in seconds."""
    fields = [int(f) for f in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    busy = sum(fields) - fields[3] - fields[4]  # less idle and iowait
    return busy / os.sysconf("SC_CLK_TCK"), time.process_time()


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


class Case:
    """One shape, dtype and set of options, and what to call on it."""

    def __init__(self, shape: str, dtype: str, kind: str, seed: int = 0) -> None:
        torch.manual_seed(seed)
        sizes = [int(s) for s in shape.split("x")]
        self.logits = torch.randn(sizes).to(DTYPES[dtype]).requires_grad_()
        self.options: dict[str, object] = {}
        if kind == "probabilities":
            self.target = torch.rand(sizes).to(DTYPES[dtype])
        else:
            self.target = torch.randint(sizes[1], sizes[:1] + sizes[2:])
        if kind == "weighted":
            self.options = {
                "weight": torch.rand(sizes[1]).to(DTYPES[dtype]),
                "label_smoothing": 0.1,
            }

    def forward(self, loss: Loss) -> torch.Tensor:
        with torch.no_grad():
            return loss(self.logits, self.target, **self.options)

    def both(self, loss: Loss) -> None:
        self.logits.grad = None
        torch.autograd.backward(loss(self.logits, self.target, **self.options))


def interleave(calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    for call in calls.values():  # compilation, first touches
        call()
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    names, start = list(calls), time.perf_counter()
    while time.perf_counter() - start < seconds or len(times[names[0]]) < 5:
        names = names[1:] + names[:1]
        for name in names:
            begin = time.perf_counter()
            calls[name]()
            times[name].append(time.perf_counter() - begin)
    return times


def measure(case: Case, losses: dict[str, Loss], seconds: float) -> dict[str, object]:
    busy, own = jiffies()
    start = time.perf_counter()
    record: dict[str, object] = {}
    x = case.logits.detach()
    copy = torch.empty_like(x)
    for phase, run in (("forward", case.forward), ("forward+backward", case.both)):
        calls: dict[str, Callable[[], object]] = {n: partial(run, f) for n, f in losses.items()}
        if phase == "forward":
            calls |= {"read": lambda: x.sum(), "copy": lambda: copy.copy_(x)}
        times = interleave(calls, seconds)
        case.logits.grad = None
        record[phase] = {
            name: {"median": statistics.median(t), "min": min(t), "rounds": len(t)}
            for name, t in times.items()
        }
        peaks: dict[str, int] = {}
        for name in losses if x.nbytes >= 1 << 26 else ():  # below, memory is reused, not mapped
            case.logits.grad = None
            peaks[name] = peak_growth(calls[name])
        record[f"{phase} peak bytes"] = peaks
        case.logits.grad = None
    busy, own = (after - before for after, before in zip(jiffies(), (busy, own), strict=True))
    wall = (time.perf_counter() - start) * (os.cpu_count() or 1)
    record["other load"] = max(0.0, busy - own) / wall
    record["bytes"] = x.nbytes
    return record


def peers(names: list[str]) -> dict[str, Loss]:
    """The candidates. A name with a colon is module:function, with F.cross_entropy's signature."""
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


def show(console: Console, title: str, records: list[dict[str, object]], names: list[str]) -> None:
    table = Table(title=title)
    table.add_column("shape, dtype, target, threads")
    for phase in ("forward", "forward+backward"):
        table.add_column(f"{phase}: ms", justify="right")
        for name in names:
            table.add_column(f"{name} / ours", justify="right")
    for record in records:
        row = [" ".join(str(record[k]) for k in ("shape", "dtype", "kind", "threads"))]
        for phase in ("forward", "forward+backward"):
            times: dict[str, dict[str, float]] = record[phase]  # type: ignore[assignment]
            ours = times["fused_ce"]["median"]
            row.append(f"{1e3 * ours:.3f}")
            row += [f"{times[name]['median'] / ours:.2f}" for name in names]
        table.add_row(*row)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="four shapes, within two minutes")
    parser.add_argument("--shapes", nargs="+", help="such as 8192x1000 or 8x21x512x512")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=DTYPES)
    parser.add_argument(
        "--kinds", nargs="+", default=["indices"], choices=["indices", "weighted", "probabilities"]
    )
    parser.add_argument("--peers", nargs="+", default=["eager", "compile"], metavar="NAME")
    parser.add_argument("--threads", nargs="+", type=int, default=[torch.get_num_threads()])
    parser.add_argument("--scaling", action="store_true", help="2^24 logits, C from 2 to 2^20")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each case and phase")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/cpu.json"))
    arguments = parser.parse_args()

    shapes = arguments.shapes or (QUICK if arguments.quick else FULL)
    if arguments.scaling:
        shapes = SCALING
    seconds = min(arguments.seconds, 1.0) if arguments.quick else arguments.seconds
    cases = [
        (shape, dtype, kind, threads)
        for threads in arguments.threads
        for kind in arguments.kinds
        for dtype in arguments.dtypes
        for shape in shapes
    ]
    print(f"{len(cases)} cases, about {len(cases) * (2 * seconds + 8) / 60:.0f} minutes")
    torch._dynamo.config.cache_size_limit = 4 * len(cases)
    losses, records = peers(arguments.peers), []
    for shape, dtype, kind, threads in (progress := tqdm(cases)):
        progress.set_description(f"{shape} {dtype} {kind}")
        torch.set_num_threads(threads)
        record = measure(Case(shape, dtype, kind), losses, seconds)
        records.append({"shape": shape, "dtype": dtype, "kind": kind, "threads": threads, **record})
        machine = {
            "processor": processor(),
            "cores": os.cpu_count(),
            "torch": torch.__version__,
            "fused_ce": fused_ce.build_info(),
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps({"machine": machine, "records": records}, indent=1))
    console = Console(width=140)
    show(console, "time of a peer over ours (medians)", records, arguments.peers)
    other = [float(r["other load"]) for r in records]
    console.print(f"other processes took {100 * max(other):.0f} % of the machine at most")
    console.print(f"written: {arguments.out}")


if __name__ == "__main__":
    main()
