# SPDX-License-Identifier: BSD-3-Clause
"""What nvdisasm prints, as instructions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class Code:
    """The instructions of a kernel, and the labels of those that are jumped to."""

    instructions: list[str]
    labels: dict[str, int]


def parse_sass(text: str) -> dict[str, Code]:
    """The kernels that nvdisasm -c printed, by mangled name."""
    kernels: dict[str, Code] = {}
    code = Code([], {})
    for line in text.splitlines():
        if section := re.match(r"\s*\.section\s+(\S+?),", line):
            code = Code([], {})
            if (name := section[1].strip('"')).startswith(".text."):
                kernels[name.removeprefix(".text.")] = code
        elif label := re.match(r"(\.L_x_\d+):", line):
            code.labels[label[1]] = len(code.instructions)
        elif instruction := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", line):
            code.instructions.append(instruction[1].lstrip("{ "))
    return kernels


def opcode(instruction: str) -> str:
    """The name and modifiers, without a predicate."""
    return re.sub(r"^@!?U?P\w+\s+", "", instruction).split(" ", 1)[0]


def count(instructions: Sequence[str], pattern: str) -> int:
    return sum(bool(re.match(pattern, opcode(i))) for i in instructions)
