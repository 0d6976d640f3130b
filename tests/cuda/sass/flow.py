# SPDX-License-Identifier: BSD-3-Clause
"""The basic blocks of a kernel, and where control goes from each."""

from __future__ import annotations

import heapq
import re
from collections.abc import Sequence

from .listing import Code, opcode


def successors(code: Code) -> list[list[int]]:
    """Where control may go from each instruction. Calls return."""
    result: list[list[int]] = []
    barriers: dict[str, str] = {}
    targets = set(code.labels.values())
    for i, instruction in enumerate(code.instructions):
        name = opcode(instruction).split(".")[0]
        labels = re.findall(r"\.L_x_\d+", instruction)
        after = [i + 1] if i + 1 < len(code.instructions) else []
        goes_on = instruction.startswith("@")
        if name in ("BRA", "BRX", "JMP"):
            # "BRA P1, L" and "BRA.DIV UR4, L" are conditional as well
            goes_on |= bool(re.search(r"BRA\S*\s+!?U?[PR]", instruction))
            after = [code.labels[t] for t in labels if t in code.labels] + after * goes_on
        elif name in ("EXIT", "RET", "BPT", "KILL"):
            after = after * goes_on
        elif name == "BSSY" and labels:
            barriers[barrier_of(instruction)] = labels[0]
        elif name == "BSYNC" and i + 1 not in targets:
            label = barriers.get(barrier_of(instruction), "")
            after = [code.labels[label]] * (label in code.labels) + after * goes_on
        result.append(after)
    return result


def barrier_of(instruction: str) -> str:
    found = re.search(r"\bB\d+\b", instruction)
    return found[0] if found else ""


def blocks_of(code: Code, edges: list[list[int]]) -> list[range]:
    """The basic blocks."""
    starts = {0, *code.labels.values()}
    for i, after in enumerate(edges):
        if after != [i + 1]:
            starts |= {i + 1, *after}
    cuts = sorted(s for s in starts if s < len(code.instructions))
    ends = [*cuts[1:], len(code.instructions)]
    return [range(a, b) for a, b in zip(cuts, ends, strict=True)]


class Graph:
    """The basic blocks of a kernel."""

    def __init__(self, code: Code) -> None:
        edges = successors(code)
        self.code = code
        self.blocks = blocks_of(code, edges)
        number = {block.start: b for b, block in enumerate(self.blocks)}
        self.after = [[number[t] for t in edges[block.stop - 1]] for block in self.blocks]

    def cycle(self, block: int, worth: Sequence[int], need: int) -> list[int] | None:
        """The blocks of the shortest way from a block round to itself that is worth so much.

        `worth`: of each block.
        """
        start = (block, min(need, worth[block]))
        queue = [(0, start)]
        before: dict[tuple[int, int], tuple[int, int]] = {}
        while queue:
            length, place = heapq.heappop(queue)
            at, have = place
            for then in self.after[at]:
                if then == block and have == need:
                    return self._way(before, start, place)
                after = (then, min(need, have + worth[then]))
                if then != block and after not in before:
                    before[after] = place
                    heapq.heappush(queue, (length + len(self.blocks[then]), after))
        return None

    @staticmethod
    def _way(
        before: dict[tuple[int, int], tuple[int, int]], start: tuple[int, int], end: tuple[int, int]
    ) -> list[int]:
        way = [end]
        while way[-1] != start:
            way.append(before[way[-1]])
        return [block for block, _ in reversed(way)]

    def instructions(self, way: Sequence[int]) -> list[str]:
        return [self.code.instructions[i] for block in way for i in self.blocks[block]]
