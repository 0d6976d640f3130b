# SPDX-License-Identifier: BSD-3-Clause
"""How many instructions rows of some classes take, all in all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from model.launches import build, calls_of
from model.work import Launch, Shape
from sass.facts import full_name, readable
from sass.occupancy import WARP
from sass.toolkit import QUICK_STORAGE, find_nvcc, ptx

from .code import Code, parse_ptx
from .machine import Block
from .memory import Memory

ARCHITECTURE = 90
ROWS = 65536
CLASSES = [33, 64, 100, 128, 257, 512, 1000]
CALLS = ["forward", "backward"]


@dataclass(frozen=True)
class Count:
    """Instructions of a thread for each logit."""

    storage: str
    call: str
    classes: int
    instructions: float


def codes(storage: str) -> dict[str, Code]:
    """Those of a type, by name."""
    found: dict[str, Code] = {}
    for mangled, code in parse_ptx(ptx(find_nvcc(), storage, ARCHITECTURE)).items():
        if parts := readable(mangled):
            function, _, *arguments = parts
            found[full_name(function, *arguments)] = code
    return found


def run(code: Code, launch: Launch, classes: int) -> tuple[Block, Memory]:
    """The first block of a launch."""
    memory = Memory(launch.storage, classes)
    block = Block(code, launch.arguments, launch.threads, launch.shared, launch.blocks, 0, memory)
    block.run()
    return block, memory


def counts(jobs: int = 1, classes: Sequence[int] = CLASSES) -> Iterator[Count]:
    """Of class indices and a mean."""
    recorder = build(QUICK_STORAGE, jobs)
    for storage in QUICK_STORAGE:
        every = codes(storage)
        shapes = [Shape(ROWS, c) for c in classes]
        for shape, calls in zip(
            shapes, calls_of(recorder, storage, "indices", shapes), strict=True
        ):
            for call in CALLS:
                launch = calls[call][0]
                block, memory = run(every[launch.kernel], launch, shape.classes)
                executed = block.executed * WARP / len(memory.read)
                yield Count(storage, call, shape.classes, executed)
