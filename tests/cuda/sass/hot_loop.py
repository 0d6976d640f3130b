# SPDX-License-Identifier: BSD-3-Clause
"""Where a kernel spends its time: the shortest way round a loop of exponentials."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .flow import Graph
from .listing import Code, count
from .roofline import FP64

SIZES = {"float": 4, "double": 8, "BFloat16": 2, "Half": 2}


def load_pattern(storage: str, function: str, parameter: str) -> tuple[str, int]:
    """The loads of logits that a kernel of these template arguments is written to make.

    As a pattern of opcodes, and the logits in one. `few` computes from its tile in shared memory.
    """
    size = SIZES[storage]
    if function.startswith("few"):
        return r"LDS\b(?!.*\.128)", 1
    if not function.startswith("planes"):
        return r"LDG\S*\.128\b", 16 // size
    bits = 8 * size * int(parameter)
    widths = {16: r"\.U16\b", 32: r"(?!.*\.(U8|U16|64|128)\b)", 64: r".*\.64\b", 128: r".*\.128\b"}
    return rf"LDG\.E{widths[bits]}", int(parameter)


# What an exponential has so many of, by the logits' size. That of float saturates.
EXPONENTIAL = {2: (r"MUFU\.EX2", 1), 4: (r"F\w+\.SAT", 1), 8: (r"DFMA\b", 8)}


def exponentials(loop: Sequence[str], size: int) -> int:
    """How many there may be."""
    pattern, of_each = EXPONENTIAL[size]
    return count(loop, pattern) // of_each


def hot_loop(
    code: Code, pattern: str, each: int, size: int, of_logits: Callable[[int], int]
) -> tuple[list[str], int]:
    """The shortest way round a loop of exponentials, from those with the most loads in a block.

    Of all logits that these bring: the ways of a row's last round may be shorter. And how many
    loads that block has. `of_logits`: how many of so many loads are the logits', where others look
    the same.

    A loop over rows, which may load as much, divides; one over classes does not. Nor does that
    convert probabilities from double where the logits are of another type.
    """
    graph = Graph(code)
    every = [graph.instructions([b]) for b in range(len(graph.blocks))]
    loads = [count(block, pattern) for block in every]
    worth = [exponentials(block, size) for block in every]
    for most in sorted(set(loads) - {0}, reverse=True):
        need = each * of_logits(most)
        ways = [graph.cycle(b, worth, need) for b, n in enumerate(loads) if n == most]
        loops = [graph.instructions(way) for way in ways if way]
        computing = [
            loop
            for loop in loops
            if not count(loop, r"MUFU\.RCP" if size == 8 else rf"MUFU\.RCP|{FP64}")
        ]
        if computing:
            return min(computing, key=len), most
    return [], 0
