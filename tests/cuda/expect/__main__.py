# SPDX-License-Identifier: BSD-3-Clause
"""PYTHONPATH=tests/cuda python -m expect: what the CUDA kernels miss of expected.json."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ptx.count import counts
from sass.facts import survey
from sass.toolkit import ARCHITECTURES, STORAGE, MissingToolError

from . import executed, kernels, launches
from .table import FILE, Expected, read, text


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="expect", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1, help="compilers at once; default 1")
    parser.add_argument("--write", action="store_true", help="write expected.json anew")
    options = parser.parse_args(arguments)
    try:
        found = survey(ARCHITECTURES, list(STORAGE), options.jobs)
    except MissingToolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    recorded = launches.record(list(STORAGE), options.jobs)
    launched = launches.of_kernels(recorded)
    counted = list(counts(options.jobs))
    if options.write:
        expected: Expected = {
            "architectures": ARCHITECTURES,
            "kernels": kernels.made(found, launched),
            "launches": launches.made(recorded),
            "executed": executed.made(counted),
        }
        FILE.write_text(text(expected))
    wanted = read()
    missed = [
        *kernels.missed(found, launched, wanted["kernels"]),
        *launches.missed(recorded, wanted["launches"]),
        *executed.missed(counted, wanted["executed"]),
    ]
    print("\n".join(missed) or f"{len(found)} kernels of {len(ARCHITECTURES)} architectures: fine")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
