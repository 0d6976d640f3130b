# SPDX-License-Identifier: BSD-3-Clause
"""One candidate in a loop of its own, as a training loop has it: forward and backward, in ms.

    python benchmarks/alone.py 2048x32000 --peers fused_ce eager compile

Each runs in a process of its own, so that none has to find the memory that another has just freed.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

import torch
from cases import Case, Spec
from peers import candidates

WARM, TIMED = 4, 20


def measure(shape: str, name: str, threads: int) -> float:
    torch.set_num_threads(threads)
    case = Case(Spec(shape, "float32", "indices", threads), "cpu")
    make = candidates([] if name == "fused_ce" else [name])[name]
    call = case.call("forward+backward", make(**case.options))
    times = []
    for _ in range(WARM + TIMED):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times[WARM:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shapes", nargs="+", help="such as 2048x32000")
    parser.add_argument("--peers", nargs="+", default=["fused_ce", "eager", "compile"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    if len(arguments.shapes) == len(arguments.peers) == 1:
        shape, name = arguments.shapes[0], arguments.peers[0]
        print(f"{shape} {name} {1e3 * measure(shape, name, arguments.threads):.1f} ms")
        return
    for shape in arguments.shapes:
        for name in arguments.peers:
            alone = [sys.executable, __file__, shape, "--peers", name]
            subprocess.run([*alone, "--threads", str(arguments.threads)], check=True)


if __name__ == "__main__":
    main()
