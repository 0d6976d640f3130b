# SPDX-License-Identifier: BSD-3-Clause
"""expected.json: a line for each kernel and type, and for the calls of each shape and terms."""

from __future__ import annotations

import json
from typing import TypedDict

from sass.toolkit import ARCHITECTURES, CUDA

from . import kernels, launches

FILE = CUDA / "expected.json"


class Expected(TypedDict):
    """All that is expected."""

    architectures: list[int]  # whose order lists of limits have
    kernels: kernels.Table
    launches: launches.Table


def read() -> Expected:
    expected: Expected = json.loads(FILE.read_text())
    if expected["architectures"] != ARCHITECTURES:
        raise ValueError(f"{FILE.name} is of other architectures: python -m expect --write")
    return expected


def text(expected: Expected) -> str:
    """With what is in a line three levels down."""
    parts = [f' "architectures": {expected["architectures"]}']
    for part in ("kernels", "launches"):
        groups = [
            f"  {json.dumps(name)}: {{\n"
            + ",\n".join(f"   {json.dumps(key)}: {json.dumps(line)}" for key, line in lines.items())
            + "\n  }"
            for name, lines in expected[part].items()
        ]
        parts.append(f' "{part}": {{\n' + ",\n".join(groups) + "\n }")
    return "{\n" + ",\n".join(parts) + "\n}\n"
