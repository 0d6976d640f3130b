# SPDX-License-Identifier: BSD-3-Clause
"""What the memory that is kept for the next gradient is worth: forward, backward and the freeing of
the gradient, on one thread. The variants take turns; the median, minimum and page faults of each.

    .venv/bin/python benchmarks/kept_memory.py [ROWS CLASSES ROUNDS]
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import time
from collections.abc import Callable

import fused_ce
import torch
import torch.nn.functional as F


def main(rows: int = 2048, classes: int = 32000, rounds: int = 20) -> None:
    torch.set_num_threads(1)
    x = torch.randn(rows, classes, requires_grad=True)
    target = torch.randint(classes, (rows,))
    # Of each: the loss, and what comes before it, untimed.
    variants: dict[str, tuple[Callable[..., torch.Tensor], Callable[[], object]]] = {
        "torch": (F.cross_entropy, lambda: None),
        "fused_ce, kept": (
            fused_ce.cross_entropy,
            lambda: torch.autograd.grad(fused_ce.cross_entropy(x, target), x),
        ),
        "fused_ce, not kept": (fused_ce.cross_entropy, fused_ce.empty_cache),
    }
    times: dict[str, list[float]] = {name: [] for name in variants}
    faults: dict[str, list[int]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, (loss, prepare) in variants.items():
            prepare()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            start = time.perf_counter()
            torch.autograd.grad(loss(x, target), x)
            end = time.perf_counter()
            if number:  # the first round warms up
                times[name].append(1e3 * (end - start))
                faults[name].append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    print(f"({rows}, {classes}) float32, {rounds} rounds, load {os.getloadavg()[0]:.1f}")
    for name, t in times.items():
        median, fewest = statistics.median(t), min(t)
        print(f"{name:20s} {median:7.1f} ms (min {fewest:.1f}), {min(faults[name])} faults")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
