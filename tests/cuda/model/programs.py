# SPDX-License-Identifier: BSD-3-Clause
"""What a warp of each kernel does, step by step: the loops of kernels/cuda, seen from afar.

How many instructions a loop has comes from its machine code; which loads wait for which is written
here by hand, beside the source. A change of a kernel's loop is a change here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sass.facts import Kernel
from sass.hot_loop import SIZES
from sass.roofline import GPUS

from .gpus import Device
from .multiprocessor import WARP, Barrier, Cached, Load, Loop, Program, Step, Store, Straight

# Of the instructions outside of a hot loop: those that a row's warp goes through. Others are for
# other types of targets, ends of rows, and rows whose guess was bad.
TAKEN = 0.35
# Bytes that one scattered number costs the memory.
SECTOR = 32
# Bytes of a row beside its logits: an int64 target, and three numbers of float that are saved.
TARGET = 8
BESIDE = TARGET + 3 * 4
# Planes that are looked at for a guess (kProbedPlanes), and cycles to read them again.
PROBED, OWN_CACHE = 8, 40
# Compensated sums of `total`, and the operations of an addition to one.
SUMS, OPERATIONS = 3, 8


@dataclass(frozen=True)
class Shape:
    """Logits (outer, classes, inner)."""

    outer: int
    classes: int
    inner: int = 1

    @property
    def rows(self) -> int:
        return self.outer * self.inner


@dataclass(frozen=True)
class Launch:
    """A kernel, in so many blocks."""

    kernel: str  # as sass.facts names it
    storage: str
    parameter: int  # its last template argument, or 0
    blocks: int
    threads: int
    shared: int  # dynamic

    @property
    def function(self) -> str:
        return self.kernel.split("<")[0]

    @property
    def warps(self) -> int:
        return -(-self.threads // WARP)

    @property
    def writes(self) -> bool:
        return "backward" in self.function


@dataclass(frozen=True)
class Work:
    """A launch of a shape's, and what nvcc made of its kernel."""

    launch: Launch
    shape: Shape
    kernel: Kernel
    device: Device

    @property
    def size(self) -> int:
        return SIZES[self.launch.storage]

    @property
    def round(self) -> int:
        """Bytes of logits that a warp asks for at once."""
        return WARP * self.kernel.elements * self.size

    @property
    def slots(self) -> float:
        """Cycles of a scheduler that a warp computes with them, by the slowest of its pipes."""
        if self.kernel.roof is None:
            return 0.0
        gpu = GPUS[self.kernel.arch]
        cycles = self.kernel.roof.compute * gpu.sms * gpu.ghz / 1e3  # a multiprocessor's, for one
        return cycles * self.kernel.elements * gpu.issue

    @property
    def straight(self) -> Straight:
        kernel = self.kernel
        return Straight(TAKEN * (kernel.instructions - kernel.loop), TAKEN * kernel.fp64)

    def load(self, size: float) -> Load:
        return Load(size, self.device.memory_latency)

    def turn(self, size: float) -> Iterator[Step]:
        """So many bytes of logits are loaded, computed with, and made gradients."""
        yield self.load(size)
        yield Loop(self.slots * size / self.round)
        if self.launch.writes:
            yield Store(size)

    def turns(self, rows: int) -> int:
        """How often a block begins anew, that has so many rows at once."""
        return max(1, round(self.shape.rows / (rows * self.launch.blocks)))

    def program(self) -> Program:
        return PROGRAMS[self.launch.function](self)


def sweep(work: Work, classes: int, team: int) -> Iterator[Step]:
    """A warp's part of a row, or of several, of which a team of threads each has some classes.

    Whole rounds are loaded at once. What is left is loaded vector by vector, one of them more where
    rows begin within a vector.
    """
    vector = 16 // work.size
    whole, rest = divmod(classes, team * work.kernel.elements)
    single = -(-rest // (team * vector)) + (classes % vector != 0)
    for _ in range(whole):
        yield from work.turn(work.round)
    for _ in range(single):
        yield from work.turn(rest * work.size * WARP / team / single)


def rows(work: Work) -> Program:
    """rows.cuh, and the slices of slices.cuh: a team of threads has a row, or a piece of one."""
    launch = work.launch
    team = launch.parameter or launch.threads
    teams = launch.threads // team
    pieces = max(1, launch.blocks * teams // work.shape.rows)
    classes = -(-work.shape.classes // pieces)

    def backward(_: int) -> Iterator[Step]:
        for _ in range(work.turns(teams)):
            yield work.load(SECTOR)  # what was saved
            yield work.straight
            yield from sweep(work, classes, team)

    def forward(_: int) -> Iterator[Step]:
        for _ in range(work.turns(teams)):
            yield work.load(SECTOR)  # the target,
            yield work.load(SECTOR)  # and its logit, which exponentials are relative to
            yield from sweep(work, classes, team)
            yield work.straight
            if team > WARP:
                yield Barrier()
        yield Barrier()

    return backward if launch.writes else forward


def finish(work: Work) -> Program:
    """slices.cuh: a block adds up a row's slices, which the cache still has."""

    def warp(_: int) -> Iterator[Step]:
        for _ in range(work.turns(1)):
            yield work.load(SECTOR)
            yield work.load(SECTOR)
            yield Cached(work.device.cache_latency)
            yield work.straight
            yield Barrier()

    return warp


def total(work: Work) -> Program:
    """total.cuh: one block adds up what the others left, three sums at once; they are its rows."""
    addition = Straight(SUMS * OPERATIONS, SUMS * OPERATIONS)

    def warp(_: int) -> Iterator[Step]:
        for _ in range(-(-work.shape.rows // work.launch.threads)):
            yield Cached(work.device.cache_latency)
            yield addition
        for _ in range(work.launch.threads.bit_length() - 1):
            yield Barrier()
            yield addition
        yield work.straight

    return warp


def planes(work: Work) -> Program:
    """planes.cuh: a thread has neighbouring rows, and walks through the classes."""
    launch, classes = work.launch, work.shape.classes
    rows = WARP * launch.parameter  # of a warp
    at_once = work.kernel.elements // launch.parameter  # planes
    plane = rows * work.size  # bytes

    def backward(_: int) -> Iterator[Step]:
        for _ in range(work.turns(launch.threads * launch.parameter)):
            yield work.load(rows * BESIDE)
            yield work.straight
            yield from walk(0)

    def forward(_: int) -> Iterator[Step]:
        for _ in range(work.turns(launch.threads * launch.parameter)):
            yield work.load(rows * TARGET)
            probed = min(PROBED, classes) // at_once
            for _ in range(probed):
                yield work.load(work.round)
            for _ in range(probed):
                yield Cached(OWN_CACHE)
                yield Loop(work.slots)
            yield from walk(probed)
            yield work.straight
            yield Store(rows * (BESIDE - TARGET))
        yield Barrier()

    def walk(rounds: int) -> Iterator[Step]:
        for _ in range(classes // at_once - rounds):
            yield from work.turn(work.round)
        for _ in range(classes % at_once):
            yield from work.turn(plane)

    return backward if launch.writes else forward


def few(work: Work) -> Program:
    """few.cuh: a tile of rows goes through shared memory, a thread a row."""
    launch, classes = work.launch, work.shape.classes
    tile = min(launch.threads, work.shape.rows) * classes * work.size / launch.warps

    def warp(_: int) -> Iterator[Step]:
        for _ in range(work.turns(launch.threads)):
            yield work.load(tile)
            yield Barrier()
            yield work.load(SECTOR)
            yield work.straight
            yield Loop(work.slots * classes / work.kernel.elements)
            yield Barrier()
            if launch.writes:
                yield Store(tile)

    return warp


PROGRAMS = {
    "few_backward": few,
    "few_forward": few,
    "planes_backward": planes,
    "planes_forward": planes,
    "rows_backward": rows,
    "rows_forward": rows,
    "slices_finish": finish,
    "slices_forward": rows,
    "total": total,
}
