# SPDX-License-Identifier: BSD-3-Clause
"""PYTHONPATH=tests/cuda python -m sass: survey the kernels, and print the report."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from .facts import survey
from .report import markdown, table
from .toolkit import (
    ARCHITECTURES,
    QUICK_ARCHITECTURES,
    QUICK_STORAGE,
    STORAGE,
    MissingToolError,
)


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="sass", description=__doc__)
    parser.add_argument("--arch", nargs="+", type=int, help="75, 90, ...; default: all")
    parser.add_argument("--storage", nargs="+", choices=list(STORAGE), help="default: all")
    parser.add_argument("--quick", action="store_true", help="three architectures, two types")
    parser.add_argument("--jobs", type=int, default=1, help="compilers at once; default 1")
    parser.add_argument(
        "--markdown", type=Path, help="write the tables of the quick architectures there as well"
    )
    parser.add_argument("--json", type=Path, help="write the facts there as well")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    options = parse_arguments(arguments)
    architectures = options.arch or (QUICK_ARCHITECTURES if options.quick else ARCHITECTURES)
    storage = options.storage or (QUICK_STORAGE if options.quick else list(STORAGE))
    try:
        kernels = survey(architectures, storage, options.jobs)
    except MissingToolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(table(kernels)))
    if options.markdown:
        reported = [k for k in kernels if k.arch in QUICK_ARCHITECTURES]
        options.markdown.write_text("\n".join(markdown(reported)))
    if options.json:
        options.json.write_text(json.dumps([asdict(k) for k in kernels], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
