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

from .multiprocessor import Await, Barrier, Cached, Program, Step, Store
from .work import Work

# Bytes that one scattered number costs the memory.
SECTOR = 32
# Bytes of a row beside its logits: an int64 target, and three numbers of float that are saved.
TARGET = 8
BESIDE = TARGET + 3 * 4
# Rows that wait together where a team is a block, and where it is smaller (kRowsTogether).
OF_BLOCKS, OF_SMALLER = 8, WARP
PLANES_TOGETHER = 4
# Vectors of a thread that make a round (kLoads; the model has no double, nor probabilities, which
# have no odd vector).
UNDER_WAY = 4
# How often a block's last warp waits for the shared cache before it is known which block is the
# last: its writes have to be there, the ticket is looked at, and drawn (ticket.cuh).
ARRIVAL = 3


@dataclass(frozen=True)
class Cut:
    """How rows are shared: a team of threads has an item, a row or a piece of one."""

    team: int  # threads; of `few` and planes, each of which has rows of its own, 1
    teams: int  # of a block
    pieces: int  # of a row
    classes: int  # of a piece
    together: int  # items whose teams wait for each other

    @classmethod
    def of(cls, work: Work) -> Cut:
        launch = work.launch
        pieces, classes = launch.slices if launch.is_cut else (1, work.shape.classes)
        if not launch.function.startswith(("rows", "slices")):
            return cls(1, launch.threads, pieces, classes, 1)
        team = launch.parameter or launch.threads
        together = OF_BLOCKS if team > WARP else OF_SMALLER
        return cls(team, launch.threads // team, pieces, classes, together)

    @property
    def at_once(self) -> int:
        """Items of a warp."""
        return max(1, WARP // self.team)

    def own(self, warp: int, items: int) -> Iterator[int]:
        """How many of a block's items that wait together are a warp's, time after time."""
        first = 0 if self.team > WARP else warp * self.at_once
        for begin in range(first, items, self.teams):
            yield min(self.at_once, items - begin)


@dataclass(frozen=True)
class Share:
    """What a warp has of an item, or of each of several: classes, and rounds of them."""

    ends: int  # in no vector
    odd: int  # in vectors that are asked for with the first round
    rounds: int
    rest: int  # in a last round that is not full

    @classmethod
    def of(cls, work: Work, cut: Cut, warp: int) -> Share:
        """Threads take vectors by turns, the first one of a warp most (row_reader.cuh)."""
        threads = min(cut.team, WARP)
        a_round = work.round_classes(threads)
        if not work.launch.function.startswith(("rows", "slices")):
            return cls(0, 0, *divmod(cut.classes, a_round))
        first = warp * WARP % cut.team if cut.team > WARP else 0
        vector = work.round_classes(1) // UNDER_WAY
        vectors, ends = divmod(cut.classes, vector)
        turns, others = divmod(vectors, cut.team)
        most = turns + (others > first)
        odd = threads * vector if most > 1 and most % UNDER_WAY == 1 else 0
        own = turns * threads + min(max(others - first, 0), threads)
        return cls(0 if first else ends, odd, *divmod(own * vector - odd, a_round))

    def last_part(self, work: Work) -> float:
        """How much of a round's instructions the last one takes, where it is not full.

        Vectors that are not there are computed with all the same; of planes, those that would make
        up four with others (kPlanesTogether).
        """
        if work.launch.function.startswith("planes"):
            fours = -(-self.rest // PLANES_TOGETHER)
            return fours * PLANES_TOGETHER / work.round_classes(1)
        return 1.0 if self.rest else 0.0


def sweep(work: Work, cut: Cut, warp: int, items: int, beside: float = 0) -> Iterator[Step]:
    """A warp's part of an item, or of several that its lanes have.

    Whole rounds are asked for vector by vector, each of which all threads have; what is left, at
    once. `beside`: bytes that are asked for with the first, as odd vectors and ends are.
    """
    share = Share.of(work, cut, warp)
    apart = (share.odd + share.ends) * work.size * items
    first = beside + apart
    for _ in range(share.rounds):
        yield from work.turn(items / cut.at_once, first)
        first = 0
    if share.rest:
        yield from work.rest(share.rest * work.size * items, share.last_part(work), first)
    elif first:
        yield work.load(first)
    if apart and work.launch.writes:
        yield Store(apart)
    yield work.item


def batches(work: Work, cut: Cut, block: int) -> Iterator[int]:
    """Of forward: how many rows of a block wait together, time after time."""
    rows = work.launch.tile_rows
    tiles = work.turns(block, work.launch.blocks)
    if rows == 1:
        yield from runs(len(tiles), cut.together)
    else:
        for tile in tiles:
            yield from runs(min(rows, work.shape.rows - tile * rows), cut.together)


def runs(items: int, longest: int) -> Iterator[int]:
    for begin in range(0, items, longest):
        yield min(longest, items - begin)


def forward_of_rows(
    work: Work, block: int, warp: int, row: Callable[[Cut, int], Iterator[Step]]
) -> Iterator[Step]:
    """waiting.cuh: `row` is what a warp does for some rows of a batch."""
    cut = Cut.of(work)
    yield work.load(cut.together * TARGET)
    yield Barrier()
    for rows in batches(work, cut, block):
        for own in cut.own(warp, rows):
            yield from row(cut, own)
        yield Barrier()
        if warp == 0:
            yield work.ask(rows * TARGET)  # those of the next batch
            yield work.batch
            yield Store(rows * (BESIDE - TARGET))
            yield Await()
        yield Barrier()
    yield from arrive(work)


def arrive(work: Work) -> Iterator[Step]:
    """What a block's threads do last (totals.cuh)."""
    yield Barrier()
    yield Cached(ARRIVAL * work.device.cache_latency)


def rows_forward(work: Work, block: int, warp: int) -> Iterator[Step]:
    """rows.cuh: the target's logit is asked for with the first of the row's."""
    yield from forward_of_rows(
        work,
        block,
        warp,
        lambda cut, rows: sweep(work, cut, warp, rows, rows * SECTOR),
    )


def slices_finish(work: Work, block: int, warp: int) -> Iterator[Step]:
    """slices.cuh: a block adds up what its row's slices left, which the cache still has."""

    def row(_: Cut, __: int) -> Iterator[Step]:
        yield work.load(SECTOR)
        yield Cached(work.device.cache_latency)
        yield work.item

    yield from forward_of_rows(work, block, warp, row)


def slices_forward(work: Work, block: int, warp: int) -> Iterator[Step]:
    """slices.cuh: no warp waits for another."""
    cut = Cut.of(work)
    yield work.load(SECTOR)  # the target
    for _ in work.turns(block, work.launch.blocks):
        yield Store(SECTOR)  # the next one, which is there when it is looked at
        yield from sweep(work, cut, warp, 1, beside=SECTOR)


def rows_backward(work: Work, block: int, warp: int) -> Iterator[Step]:
    """rows.cuh: of some pieces of rows one warp makes factors, and then all of them gradients."""
    cut = Cut.of(work)
    every = work.shape.rows * cut.pieces
    its = sum(
        min(cut.teams, every - turn * cut.teams) for turn in work.turns(block, work.launch.blocks)
    )
    for items in runs(its, cut.together):
        if warp == 0:
            yield work.load(items / cut.pieces * BESIDE)
            yield work.batch
        yield Barrier()
        for own in cut.own(warp, items):
            yield from sweep(work, cut, warp, own)
        yield Barrier()


def turns(work: Work, block: int, at_once: int) -> Iterator[int]:
    """The turns of a block that takes so many rows in each: of a tile forward, or of all."""
    rows = work.shape.rows
    if work.launch.writes:
        yield from work.turns(block, -(-rows // at_once))
        return
    tile_rows = work.launch.tile_rows
    for tile in work.turns(block, work.launch.blocks):
        yield from range(-(-min(tile_rows, rows - tile * tile_rows) // at_once))


def walk(work: Work) -> Iterator[Step]:
    """A warp's way through the planes of its rows, a round of them at a time."""
    share = Share.of(work, Cut.of(work), 0)
    for _ in range(share.rounds):
        yield from work.turn()
    if share.rest:
        size = work.round * share.rest / work.round_classes(1)
        yield from work.rest(size, share.last_part(work))
    yield work.item


def planes_forward(work: Work, block: int, _: int) -> Iterator[Step]:
    """planes.cuh: a thread has neighbouring rows, and walks through the classes."""
    rows = WARP * work.launch.parameter  # of a warp
    for _ in turns(work, block, rows * work.launch.warps):
        yield work.load(rows * TARGET)
        yield from walk(work)
        yield Store(rows * (BESIDE - TARGET))
    yield from arrive(work)


def planes_backward(work: Work, block: int, _: int) -> Iterator[Step]:
    """planes.cuh."""
    rows = WARP * work.launch.parameter
    for _ in turns(work, block, rows * work.launch.warps):
        yield work.load(rows * BESIDE)
        yield from walk(work)


def few(work: Work, block: int, _: int) -> Iterator[Step]:
    """few.cuh: a warp's rows go through shared memory, a thread a row.

    A round is of their copying: what is computed with a row is in `item`.
    """
    launch = work.launch
    share = WARP * work.shape.classes * work.size
    for _ in turns(work, block, launch.threads):
        yield work.load(WARP * TARGET)
        for begin in range(0, share, WARP * work.kernel.asked):
            yield work.load(min(WARP * work.kernel.asked, share - begin))
        if launch.writes:
            yield work.load(WARP * (BESIDE - TARGET))
        yield work.item
        yield Store(share if launch.writes else WARP * (BESIDE - TARGET))
    if not launch.writes:
        yield from arrive(work)


PROGRAMS: dict[str, Callable[[Work, int, int], Iterator[Step]]] = {
    "few_backward": few,
    "few_forward": few,
    "planes_backward": planes_backward,
    "planes_forward": planes_forward,
    "rows_backward": rows_backward,
    "rows_forward": rows_forward,
    "slices_finish": slices_finish,
    "slices_forward": slices_forward,
}


def program(work: Work) -> Program:
    """What the warps of a launch do."""
    return partial(PROGRAMS[work.launch.function], work)
