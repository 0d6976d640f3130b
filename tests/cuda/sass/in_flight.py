# SPDX-License-Identifier: BSD-3-Clause
"""What a thread asks the memory for before it has to wait."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .listing import opcode


def registers(instruction: str) -> list[int]:
    return [int(number) for number in re.findall(r"\bR(\d+)\b", instruction)]


def asked(instructions: Sequence[str], pattern: str, size: int) -> int:
    """The most bytes that are under way at once, on the way through these instructions.

    Of loads of this pattern of opcodes, each of so many bytes. One is under way until its result is
    named; those before it are taken to have come by then.
    """
    pending: list[range] = []
    most = 0
    for instruction in instructions:
        named = registers(instruction)
        waits = [i for i, results in enumerate(pending) if any(r in results for r in named)]
        pending = pending[waits[-1] + 1 if waits else 0 :]
        if re.match(pattern, opcode(instruction)):
            pending.append(range(named[0], named[0] + max(1, size // 4)))
            most = max(most, len(pending))
    return most * size
