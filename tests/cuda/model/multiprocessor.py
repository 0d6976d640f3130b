# SPDX-License-Identifier: BSD-3-Clause
"""One multiprocessor, event by event: its warps wait for its memory's share and its schedulers.

Memory and schedulers serve in the order of asking. Time is in cycles.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from random import Random

from sass.occupancy import SCHEDULERS, WARP

# How much longer than an idle memory's latency that of a busy one is, beside waiting for its turn.
BUSY = 1.25
# By lot it is so much more or less.
SPREAD = 0.2
# An instruction that waits for the one before it.
DEPENDENT = 4


@dataclass(frozen=True)
class Load:
    """A warp's loads that are under way at once; the warp waits for them."""

    size: float  # bytes
    latency: int


@dataclass(frozen=True)
class Cached:
    """A load of what a cache has."""

    latency: int


@dataclass(frozen=True)
class Store:
    """Nobody waits for it, but it takes the memory's time."""

    size: float


@dataclass(frozen=True)
class Loop:
    """Independent instructions: as fast as they are issued."""

    slots: float  # cycles of a scheduler


@dataclass(frozen=True)
class Straight:
    """Instructions one after another, some of them double's."""

    instructions: float
    fp64: float = 0


@dataclass(frozen=True)
class Barrier:
    """Of all warps of a block."""


Step = Load | Cached | Store | Loop | Straight | Barrier
# The steps of a warp, by its block's number and its own in that.
Program = Callable[[int, int], Iterator[Step]]


@dataclass(frozen=True)
class Limits:
    """What a multiprocessor gives its warps."""

    bytes_a_cycle: float
    fp64_lanes: int
    resident: int  # blocks at once
    start: int  # cycles until a block's first instruction


@dataclass
class Block:
    running: int  # warps
    waiting: list[Warp] = field(default_factory=list)  # at a barrier


@dataclass
class Warp:
    number: int
    block: Block
    steps: Iterator[Step]


class Multiprocessor:
    """When its units are free, and what happens when."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.memory = self.fp64 = 0.0
        self.schedulers = [0.0] * SCHEDULERS
        self.events: list[tuple[float, int, Warp]] = []
        self.numbers = count()
        self.random = Random(0)

    def run(self, program: Program, warps: int, blocks: Sequence[int]) -> float:
        """When the last of these blocks has ended, and its stores have."""
        end = 0.0
        waiting = iter(blocks)
        for number in islice(waiting, self.limits.resident):
            self._begin(0, program, warps, number)
        while self.events:
            end, _, warp = heapq.heappop(self.events)
            block = warp.block
            step = next(warp.steps, None)
            if step is None:
                block.running -= 1
                if block.running == 0 and (number := next(waiting, -1)) >= 0:
                    self._begin(end, program, warps, number)
            elif isinstance(step, Barrier):
                block.waiting.append(warp)
                if len(block.waiting) == warps:
                    for other in block.waiting:
                        self._at(end + DEPENDENT, other)
                    block.waiting = []
            else:
                self._at(self._done(end, warp.number % SCHEDULERS, step), warp)
        return max(end, self.memory)

    def _begin(self, time: float, program: Program, warps: int, number: int) -> None:
        block = Block(warps)
        for warp in range(warps):
            self._at(time + self.limits.start, Warp(warp, block, program(number, warp)))

    def _at(self, time: float, warp: Warp) -> None:
        heapq.heappush(self.events, (time, next(self.numbers), warp))

    def _done(self, time: float, scheduler: int, step: Step) -> float:
        """When a warp's step is, that begins now."""
        match step:
            case Load(size, latency):
                self.memory = max(time, self.memory) + size / self.limits.bytes_a_cycle
                return self.memory + latency * self._busy()
            case Store(size):
                self.memory = max(time, self.memory) + size / self.limits.bytes_a_cycle
                return time
            case Loop(slots):
                return self._issue(time, scheduler, slots)
            case Straight(instructions, fp64):
                self.fp64 = max(time, self.fp64) + fp64 * WARP / self.limits.fp64_lanes
                issued = self._issue(time, scheduler, instructions)
                return max(issued, time + DEPENDENT * instructions, self.fp64)
            case Cached(latency):
                return time + latency
            case Barrier():
                raise AssertionError("a block's, not a warp's")

    def _busy(self) -> float:
        return BUSY * self.random.uniform(1 - SPREAD, 1 + SPREAD)

    def _issue(self, time: float, scheduler: int, slots: float) -> float:
        self.schedulers[scheduler] = max(time, self.schedulers[scheduler]) + slots
        return self.schedulers[scheduler]
