# SPDX-License-Identifier: BSD-3-Clause
"""PYTHONPATH=tests/cuda python -m model: print the estimates, and write them into documents."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

import modelled
from ptx.count import codes, counts
from sass.facts import survey
from sass.toolkit import QUICK_STORAGE, ROOT, MissingToolError, stamp

from .estimate import estimate
from .gpus import DEVICES, Device
from .launches import build, calls_of
from .tables import Result, between, details, executed, figures, summary
from .taken import taken
from .work import Launch, Shape, Work

# What `make gpu` measures on a GPU (benchmarks/cases.py).
SHAPES = ["4096x32000", "8192x50257", "16384x131072", "64x1000000", "65536x1000", "8x21x512x512"]
SHAPES += ["4194304x10", "64x1000"]
CALLS = ["forward", "backward"]
README = ROOT / "kernels" / "README.md"
DETAILS = ROOT / "tests" / "cuda" / "model.md"


def estimates(jobs: int) -> Iterator[Result]:
    recorder = build(QUICK_STORAGE, jobs)
    shapes = [Shape.named(name) for name in SHAPES]
    calls = {storage: calls_of(recorder, storage, "indices", shapes) for storage in QUICK_STORAGE}
    architectures = sorted({device.arch for device in DEVICES})
    kernels = {(k.arch, k.name, k.storage): k for k in survey(architectures, QUICK_STORAGE, jobs)}
    code = {storage: codes(storage) for storage in QUICK_STORAGE}

    def work(launch: Launch, shape: Shape, device: Device) -> Work:
        return Work(launch, shape, kernels[device.arch, launch.kernel, launch.storage], device)

    problems = list(product(enumerate(SHAPES), QUICK_STORAGE, CALLS))
    executed = {
        (launch, shapes[i]): taken(
            code[storage][launch.kernel], work(launch, shapes[i], DEVICES[0])
        )
        for (i, _), storage, call in problems
        for launch in calls[storage][i][call]
    }
    for device in DEVICES:
        for (i, name), storage, call in problems:
            works = [
                replace(work(launch, shapes[i], device), taken=executed[launch, shapes[i]])
                for launch in calls[storage][i][call]
            ]
            # There is none where the hot loop was not found.
            if all(w.kernel.elements for w in works):
                yield Result(device.name, name, storage, call, estimate(works))


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="model", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1, help="compilers at once; default 1")
    jobs = parser.parse_args(arguments).jobs
    try:
        results, counted = list(estimates(jobs)), list(counts(jobs))
    except MissingToolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    modelled.write(figures(results))
    made = [stamp("sass", "ptx", "model"), "", *details(results)]
    for file, mark, lines in [
        (DETAILS, "executed", list(executed(counted))),
        (DETAILS, "model", made),
        (README, "model", list(summary(results))),
    ]:
        print("\n".join(lines))
        file.write_text(between(file.read_text(), mark, lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
