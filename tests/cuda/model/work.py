# SPDX-License-Identifier: BSD-3-Clause
"""A launch of a problem, and what nvcc made of its kernel: what a program is written with."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from sass.facts import Kernel
from sass.hot_loop import SIZES
from sass.occupancy import WARP, resident
from sass.roofline import GPUS

from .gpus import Device
from .multiprocessor import Ask, Await, Load, Loop, Step, Store, Straight


@dataclass(frozen=True)
class Shape:
    """Logits (outer, classes, inner)."""

    outer: int
    classes: int
    inner: int = 1

    @classmethod
    def named(cls, name: str) -> Shape:
        """8x21x512x512: of logits (8, 21, 512, 512)."""
        outer, classes, *inner = map(int, name.split("x"))
        return cls(outer, classes, math.prod(inner))

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
    arguments: tuple[bytes, ...] = ()
    persistent: bool = False  # whether there are fewer blocks where a GPU has room for fewer

    @property
    def function(self) -> str:
        return self.kernel.split("<")[0]

    @property
    def warps(self) -> int:
        return -(-self.threads // WARP)

    @property
    def writes(self) -> bool:
        return "backward" in self.function

    @property
    def tile_rows(self) -> int:
        """Of forward, which has Tiles (tiles.h) as its last argument."""
        (rows,) = struct.unpack_from("<8xq", self.arguments[-1])
        return int(rows)

    @property
    def is_cut(self) -> bool:
        """Whether what a team has is a piece of a row."""
        return self.function in ("slices_forward", "rows_backward")

    @property
    def slices(self) -> tuple[int, int]:
        """How many pieces a row is cut into, and the classes of one: the last two arguments."""
        pieces, classes = (int.from_bytes(a, "little") for a in self.arguments[-2:])
        return pieces, classes


@dataclass(frozen=True)
class Taken:
    """What a warp executes beside rounds of its hot loop: instructions, and those of FP64."""

    item: float = 0  # for each of those that it sums, or differentiates
    item_fp64: float = 0
    batch: float = 0  # of the warp that works for some of them at once
    batch_fp64: float = 0


@dataclass(frozen=True)
class Work:
    """A launch of a shape's, and what nvcc made of its kernel."""

    launch: Launch
    shape: Shape
    kernel: Kernel
    device: Device
    taken: Taken = Taken()

    @property
    def size(self) -> int:
        return SIZES[self.launch.storage]

    @property
    def round(self) -> int:
        """Bytes of logits that a warp takes in a round of the hot loop."""
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
    def resident(self) -> int:
        """Blocks that a multiprocessor has room for."""
        shared = self.kernel.shared + self.launch.shared
        return resident(self.kernel.arch, self.launch.threads, self.kernel.registers, shared)

    @property
    def blocks(self) -> int:
        """Those of the grid."""
        room = self.resident * self.device.gpu.sms
        return min(self.launch.blocks, room) if self.launch.persistent else self.launch.blocks

    @property
    def in_flight(self) -> float:
        """Bytes that a multiprocessor waits for when all of its threads do."""
        threads = self.blocks * self.launch.threads
        share = self.shape.rows * self.shape.classes * self.size / threads
        return self.resident * self.launch.threads * min(self.kernel.asked, share)

    @property
    def item(self) -> Straight:
        return Straight(self.taken.item, self.taken.item_fp64)

    @property
    def batch(self) -> Straight:
        return Straight(self.taken.batch, self.taken.batch_fp64)

    def load(self, size: float) -> Load:
        return Load(size, self.device.memory_latency)

    def ask(self, size: float) -> Ask:
        return Ask(size, self.device.memory_latency)

    @property
    def first(self) -> float:
        """The part of a round that is asked for before anything of it is used."""
        return min(1.0, self.kernel.asked * WARP / self.round)

    def round_classes(self, team: int) -> int:
        """Those of a row that a team takes in a round, or a thread of its neighbouring rows'."""
        neighbours = self.launch.parameter if self.launch.function.startswith("planes") else 1
        return self.kernel.elements * team // neighbours

    def turn(self, part: float = 1, beside: float = 0) -> Iterator[Step]:
        """A round of logits is loaded, computed with, and made gradients.

        Where the code uses the first of them before it asks for the last, these come later.
        `part`: of a warp's lanes that take part; `beside`: bytes that are asked for with the first.
        """
        size = part * self.round
        first = self.first
        yield self.load(first * size + beside)
        if first < 1:
            yield self.ask((1 - first) * size)
        yield Loop(first * self.slots)
        if first < 1:
            yield Await()
            yield Loop((1 - first) * self.slots)
        if self.launch.writes:
            yield Store(size)

    def rest(self, size: float, part: float = 1, beside: float = 0) -> Iterator[Step]:
        """Less than a round, of which all is asked for at once.

        `part`: of a round, that it is computed with as if all of that were there.
        """
        yield self.load(size + beside)
        yield Loop(part * self.slots)
        if self.launch.writes:
            yield Store(size)

    def turns(self, block: int, pieces: int) -> range:
        """Those pieces of a launch that a block has, when blocks take turns."""
        return range(block, pieces, self.blocks)
