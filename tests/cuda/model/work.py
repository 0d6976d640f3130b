# SPDX-License-Identifier: BSD-3-Clause
"""A launch of a problem, and what nvcc made of its kernel: what a program is written with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from sass.facts import Kernel
from sass.hot_loop import SIZES
from sass.occupancy import WARP, resident
from sass.roofline import GPUS

from .gpus import Device
from .multiprocessor import Load, Loop, Step, Store, Straight

# Of the instructions outside of a hot loop: those that a row's warp goes through. Others are for
# other types of targets, ends of rows, and rows whose guess was bad.
TAKEN = 0.35


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
    def in_flight(self) -> float:
        """Bytes that a multiprocessor waits for when all of its threads do."""
        threads = self.launch.blocks * self.launch.threads
        share = self.shape.rows * self.shape.classes * self.size / threads
        return self.resident * self.launch.threads * min(self.kernel.asked, share)

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

    def turns(self, block: int, items: int, at_once: int = 1) -> range:
        """The turns of a block, where each takes so many of all items, and blocks take turns."""
        return range(block, -(-items // at_once), self.launch.blocks)
