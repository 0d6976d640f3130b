# SPDX-License-Identifier: BSD-3-Clause
"""What warps execute beside rounds of their hot loops: counted by an interpreter (../ptx).

One block runs, whose rows are cut short: what is beside the rounds stays as it is. nvcc's PTX is
counted, of one architecture for all: ptxas merges some of it, and drops moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ptx.code import Code
from ptx.machine import Block
from ptx.machine import Warp as Counted
from ptx.memory import Memory

from .programs import Cut, Share, program
from .work import Launch, Taken, Work

# Rounds that are left of those of a longer row.
ROUNDS = 3


def shortened(launch: Launch, classes: int) -> Launch:
    """The same of a problem of so many classes, which is what all kernels have first.

    Where rows are cut, the first piece has them all.
    """
    objective, *others = launch.arguments
    number = classes.to_bytes(8, "little")
    if launch.is_cut:
        others[-1] = number
    return replace(launch, arguments=(objective[:8] + number + objective[16:], *others))


def run(code: Code, launch: Launch, classes: int) -> list[Counted]:
    """The warps of the first block. No target is in a round before the last."""
    memory = Memory(launch.storage, classes, target=classes - 1)
    short = shortened(launch, classes)
    block = Block(code, short.arguments, launch.threads, launch.shared, launch.blocks, 0, memory)
    block.run()
    return block.warps


def taken(code: Code, work: Work) -> Taken:
    """With a block for each piece of work, and so one batch."""
    one = replace(work, launch=replace(work.launch, persistent=False))
    marked = replace(one, taken=Taken(item=1))
    items = [
        sum(step == marked.item for step in program(marked)(0, warp))
        for warp in range(one.launch.warps)
    ]
    cut = Cut.of(one)
    size = one.round_classes(cut.team)
    shares = [Share.of(one, cut, warp) for warp in range(one.launch.warps)]
    # `few` copies as well as it computes, and has rows that are short enough.
    is_few = one.launch.function.startswith("few")
    least = 0 if is_few else min(share.rounds for share in shares)
    # The shorter row, too, has an odd vector where this one has: it needs a round behind that.
    more = max(min(least, ROUNDS), 2 if any(share.odd for share in shares) else 0)
    classes = cut.classes - (least - more) * size
    long = run(code, one.launch, classes)
    short = run(code, one.launch, classes - size) if more else long
    rounds = [share.rounds - least + more + share.last_part(one) for share in shares]

    def beside(counts: Sequence[tuple[int, int]]) -> tuple[float, float]:
        """Of an item, and of a batch."""
        each = [
            (after - n * (after - before), its)
            for (after, before), n, its in zip(counts, rounds, items, strict=True)
            if its
        ]
        # The first warp works for the others as well.
        plain = each[1:] or each
        item = max(0.0, sum(executed for executed, _ in plain) / sum(n for _, n in plain))
        return item, max(0.0, each[0][0] - item * each[0][1])

    pairs = list(zip(long, short, strict=True))
    item, batch = beside([(a.executed, b.executed) for a, b in pairs])
    item_fp64, batch_fp64 = beside([(a.fp64, b.fp64) for a, b in pairs])
    return Taken(item, item_fp64, batch, batch_fp64)
