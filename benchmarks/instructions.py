# SPDX-License-Identifier: BSD-3-Clause
"""Count the instructions of a small call, fused_ce beside torch, with valgrind.

Counted are calls of modules on 32 x 10 logits and one thread, Python and all. torch's own Timer
starts a process for each count, warms up, and lets callgrind count the calls alone. Counts depend
neither on the load nor on the clock; they repeat to a percent or so.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from torch.utils.benchmark import Timer
from tqdm import tqdm

MODULES = {"fused_ce": "fused_ce", "torch": "torch.nn"}
CALLS = {
    "forward, no grad": "criterion(detached, target)",
    "forward": "criterion(logits, target)",
    "forward+backward": "logits.grad = None; criterion(logits, target).backward()",
}
SETUP = """
import fused_ce, torch
torch.manual_seed(0)
logits = torch.randn({rows}, {classes}, requires_grad=True)
target = torch.randint({classes}, ({rows},))
detached, criterion = logits.detach(), {module}.CrossEntropyLoss()
torch.set_grad_enabled({recorded})
"""


def count(module: str, phase: str, shape: str, calls: int) -> float:
    """Instructions of one call."""
    rows, classes = shape.split("x")
    recorded = phase != "forward, no grad"
    setup = SETUP.format(rows=rows, classes=classes, module=module, recorded=recorded)
    timer = Timer(CALLS[phase], setup, num_threads=1)
    (counted,) = timer.collect_callgrind(
        calls, repeats=1, collect_baseline=False, retain_out_file=False
    )
    return counted.counts() / calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="32x10", help="of the logits")
    parser.add_argument("--calls", type=int, default=100, help="of each count")
    arguments = parser.parse_args()
    # valgrind knows no AVX-512, and runs the `python` of the path.
    os.environ |= {"FUSED_CE_CPU_CAPABILITY": "avx2", "ATEN_CPU_CAPABILITY": "avx2"}
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    counts = {
        (phase, name): count(module, phase, arguments.shape, arguments.calls)
        for phase in tqdm(CALLS)
        for name, module in MODULES.items()
    }
    for name in MODULES:
        both, forward = counts["forward+backward", name], counts["forward", name]
        counts["backward", name] = both - forward
    table = Table("instructions a call", *MODULES, "torch / fused_ce")
    for phase in ("forward, no grad", "forward", "backward", "forward+backward"):
        ours, theirs = (counts[phase, name] for name in MODULES)
        table.add_row(phase, f"{ours:,.0f}", f"{theirs:,.0f}", f"{theirs / ours:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
