# SPDX-License-Identifier: BSD-3-Clause
"""PYTHONPATH=tests/cuda python -m model: print the estimates, and write them into documents."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import product

from sass.facts import survey
from sass.toolkit import QUICK_STORAGE, ROOT, MissingToolError, stamp

from .estimate import estimate
from .gpus import DEVICES
from .launches import build, calls_of
from .programs import Shape
from .tables import Result, between, details, summary

SHAPES = [
    Shape(4096, 32000),
    Shape(8192, 50257),
    Shape(16384, 131072),
    Shape(64, 1000000),
    Shape(65536, 1000),
    Shape(8, 21, 512 * 512),
    Shape(64, 10),
]
README = ROOT / "kernels" / "README.md"
DETAILS = ROOT / "tests" / "cuda" / "model.md"


def estimates(jobs: int) -> Iterator[Result]:
    recorder = build(jobs)
    calls = {storage: calls_of(recorder, storage, SHAPES) for storage in QUICK_STORAGE}
    architectures = sorted({device.arch for device in DEVICES})
    kernels = {
        (k.arch, k.name, k.storage): k
        for k in survey(architectures, [*QUICK_STORAGE, "none"], jobs)
    }
    for device, (i, shape), storage in product(DEVICES, enumerate(SHAPES), QUICK_STORAGE):
        for call, launches in calls[storage][i].items():
            made = [(x, kernels[device.arch, x.kernel, x.storage]) for x in launches]
            yield Result(device.name, shape, storage, call, estimate(device, shape, made))


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="model", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1, help="compilers at once; default 1")
    try:
        results = list(estimates(parser.parse_args(arguments).jobs))
    except MissingToolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    made = [stamp("sass", "model"), "", *details(results)]
    for file, lines in (DETAILS, made), (README, list(summary(results))):
        print("\n".join(lines))
        file.write_text(between(file.read_text(), "model", lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
