# SPDX-License-Identifier: BSD-3-Clause
"""expected.json: a line for each kernel and type, for the launches of each shape and terms, and for
what each type and call execute.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypedDict

from sass.toolkit import ARCHITECTURES, CUDA

from . import executed, kernels, launches

FILE = CUDA / "expected.json"


class Expected(TypedDict):
    """All that is expected."""

    architectures: list[int]  # whose order lists of limits have
    kernels: kernels.Table
    launches: launches.Table
    executed: executed.Table


def read() -> Expected:
    expected: Expected = json.loads(FILE.read_text())
    if expected["architectures"] != ARCHITECTURES:
        raise ValueError(f"{FILE.name} is of other architectures: python -m expect --write")
    return expected


def text(expected: Expected) -> str:
    """With what is in a line three levels down."""
    parts = [f' "architectures": {expected["architectures"]}']
    groups_of: dict[str, Mapping[str, Mapping[str, object]]] = {
        "kernels": expected["kernels"],
        "launches": expected["launches"],
        "executed": expected["executed"],
    }
    for part, of_part in groups_of.items():
        groups = [
            f"  {json.dumps(name)}: {{\n"
            + ",\n".join(f"   {json.dumps(key)}: {json.dumps(line)}" for key, line in lines.items())
            + "\n  }"
            for name, lines in of_part.items()
        ]
        parts.append(f' "{part}": {{\n' + ",\n".join(groups) + "\n }")
    return "{\n" + ",\n".join(parts) + "\n}\n"
