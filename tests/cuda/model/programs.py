# SPDX-License-Identifier: BSD-3-Clause
"""What a warp of each kernel does, step by step: the loops of kernels/cuda, seen from afar.

How many instructions a loop has comes from its machine code; which loads wait for which is written
here by hand, beside the source. A change of a kernel's loop is a change here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from sass.occupancy import WARP

from .multiprocessor import Barrier, Cached, Loop, Program, Step, Store, Straight
from .work import Work

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
class Cut:
    """How rows are shared: a team of threads has a piece of one."""

    team: int  # threads
    teams: int  # of a block
    pieces: int  # of a row
    classes: int  # of a piece

    @classmethod
    def of(cls, work: Work) -> Cut:
        launch, shape = work.launch, work.shape
        team = launch.parameter or launch.threads
        teams = launch.threads // team
        pieces = max(1, launch.blocks * teams // shape.rows)
        return cls(team, teams, pieces, -(-shape.classes // pieces))


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


def rows_forward(work: Work, block: int, _: int) -> Iterator[Step]:
    """rows.cuh, and the slices of slices.cuh: a team of threads has a row, or a piece of one."""
    cut = Cut.of(work)
    for _ in work.turns(block, cut.pieces * work.shape.rows, cut.teams):
        yield work.load(SECTOR)  # the target,
        yield work.load(SECTOR)  # and its logit, which exponentials are relative to
        yield from sweep(work, cut.classes, cut.team)
        yield work.straight
        if cut.team > WARP:
            yield Barrier()
    yield Barrier()


def rows_backward(work: Work, block: int, _: int) -> Iterator[Step]:
    """rows.cuh."""
    cut = Cut.of(work)
    for _ in work.turns(block, cut.pieces * work.shape.rows, cut.teams):
        yield work.load(SECTOR)  # what was saved
        yield work.straight
        yield from sweep(work, cut.classes, cut.team)


def slices_finish(work: Work, block: int, _: int) -> Iterator[Step]:
    """slices.cuh: a block adds up a row's slices, which the cache still has."""
    for _ in work.turns(block, work.shape.rows):
        yield work.load(SECTOR)
        yield work.load(SECTOR)
        yield Cached(work.device.cache_latency)
        yield work.straight
        yield Barrier()


def total(work: Work, _: int, __: int) -> Iterator[Step]:
    """total.cuh: one block adds up what the others left, three sums at once; they are its rows."""
    addition = Straight(SUMS * OPERATIONS, SUMS * OPERATIONS)
    for _ in range(-(-work.shape.rows // work.launch.threads)):
        yield Cached(work.device.cache_latency)
        yield addition
    for _ in range(work.launch.threads.bit_length() - 1):
        yield Barrier()
        yield addition
    yield work.straight


def walk(work: Work, classes: int) -> Iterator[Step]:
    """A warp's way through so many planes of its rows."""
    at_once = work.kernel.elements // work.launch.parameter
    for _ in range(classes // at_once):
        yield from work.turn(work.round)
    for _ in range(classes % at_once):
        yield from work.turn(work.round / at_once)


def planes_forward(work: Work, block: int, _: int) -> Iterator[Step]:
    """planes.cuh: a thread has neighbouring rows, and walks through the classes."""
    rows = WARP * work.launch.parameter  # of a warp
    at_once = work.kernel.elements // work.launch.parameter
    probed = min(PROBED, work.shape.classes) // at_once
    for _ in work.turns(block, work.shape.rows, rows * work.launch.warps):
        yield work.load(rows * TARGET)
        for _ in range(probed):
            yield work.load(work.round)
        for _ in range(probed):
            yield Cached(OWN_CACHE)
            yield Loop(work.slots)
        yield from walk(work, work.shape.classes - probed * at_once)
        yield work.straight
        yield Store(rows * (BESIDE - TARGET))
    yield Barrier()


def planes_backward(work: Work, block: int, _: int) -> Iterator[Step]:
    """planes.cuh."""
    rows = WARP * work.launch.parameter
    for _ in work.turns(block, work.shape.rows, rows * work.launch.warps):
        yield work.load(rows * BESIDE)
        yield work.straight
        yield from walk(work, work.shape.classes)


def few(work: Work, block: int, _: int) -> Iterator[Step]:
    """few.cuh: a tile of rows goes through shared memory, a thread a row."""
    launch, classes = work.launch, work.shape.classes
    tile = min(launch.threads, work.shape.rows) * classes * work.size / launch.warps
    for _ in work.turns(block, work.shape.rows, launch.threads):
        yield work.load(tile)
        yield Barrier()
        yield work.load(SECTOR)
        yield work.straight
        yield Loop(work.slots * classes / work.kernel.elements)
        yield Barrier()
        if launch.writes:
            yield Store(tile)


PROGRAMS: dict[str, Callable[[Work, int, int], Iterator[Step]]] = {
    "few_backward": few,
    "few_forward": few,
    "planes_backward": planes_backward,
    "planes_forward": planes_forward,
    "rows_backward": rows_backward,
    "rows_forward": rows_forward,
    "slices_finish": slices_finish,
    "slices_forward": rows_forward,
    "total": total,
}


def program(work: Work) -> Program:
    """What the warps of a launch do."""
    return partial(PROGRAMS[work.launch.function], work)
